//! Requests to a running server, as its admin: the address, the token, the timeouts, and each failure as one sentence.
//! The commands choose the request and format the answer.

use std::error::Error as _;
use std::io;

use anyhow::{anyhow, bail};
use clap::Args;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use url::{Host, Url};

use super::WrongUsage;
use super::output::{print_line, single_line, with_spinner};
use crate::config::{self, PAGE_MAX_ROWS, ServerSettings, is_loopback};
use crate::data_dir::{ADMIN_TOKEN, DataDir, read_secret};

/// Arguments of each command that sends requests to a server.
#[derive(Args, Clone)]
pub struct ClientArgs {
    #[command(flatten)]
    pub server: ServerSettings,

    /// Print the server's JSON answer on one line
    #[arg(long)]
    pub json: bool,
}

pub struct Client {
    http: reqwest::Client,
    /// Without a trailing slash.
    base: String,
    /// The token, or why there is none. The reason is shown only if the server answers 401.
    token: Result<HeaderValue, String>,
    json: bool,
}

/// The server is away, or cannot serve now: the same request may be answered later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Transient(String);

/// A 2xx answer.
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    text: String,
}

impl Client {
    /// # Errors
    /// When the address or the token cannot be part of a request.
    pub fn new(args: &ClientArgs) -> anyhow::Result<Self> {
        let url = parse_base(&args.server.url)?;
        Ok(Self {
            http: http_client(network_of(&url))?,
            base: args.server.url.trim_end_matches('/').to_owned(),
            token: admin_token(&args.server)?,
            json: args.json,
        })
    }

    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    /// Rows of a list, page by page until there are `most`, and the `after` of those that follow.
    pub async fn get_most(&self, path: &str, most: usize) -> anyhow::Result<(Vec<Value>, Option<String>)> {
        let (mut rows, mut after) = (Vec::new(), None);
        while rows.len() < most {
            let limit = (most - rows.len()).min(usize::try_from(PAGE_MAX_ROWS).unwrap_or(usize::MAX));
            let (page, next) = self.get_page_of(path, limit, after.as_deref()).await?;
            rows.extend(page);
            after = next;
            if after.is_none() {
                break;
            }
        }
        Ok((rows, after))
    }

    /// All rows of a list, read page by page.
    pub async fn get_all(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut rows = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let (page, next) = self.get_page(path, after.as_deref()).await?;
            rows.extend(page);
            if next.is_none() {
                return Ok(rows);
            }
            after = next;
        }
    }

    /// One page of a list, and the `after` of the next page.
    pub async fn get_page(
        &self,
        path: &str,
        after: Option<&str>,
    ) -> anyhow::Result<(Vec<Value>, Option<String>)> {
        self.get_page_of(path, usize::try_from(PAGE_MAX_ROWS).unwrap_or(usize::MAX), after).await
    }

    async fn get_page_of(
        &self,
        path: &str,
        limit: usize,
        after: Option<&str>,
    ) -> anyhow::Result<(Vec<Value>, Option<String>)> {
        let limit = limit.to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.map(|after| ("after", after)));
        let Answer { mut body, .. } = self.get(path, &query).await?;
        let next = body["next"].as_str().map(str::to_owned);
        anyhow::ensure!(
            next.is_none() || next.as_deref() != after,
            "the server's list does not end: it repeats the page after {after:?}"
        );
        let Value::Array(page) = body["items"].take() else { return Ok((Vec::new(), next)) };
        Ok((page, next))
    }

    /// Prints rows of `get_all`: as one JSON document, or as the given text.
    pub fn print_all(&self, rows: &[Value], text: impl FnOnce(&[Value]) -> String) -> anyhow::Result<()> {
        self.print_rows(rows, None, text)
    }

    /// Prints rows of `get_most`.
    pub fn print_rows(
        &self,
        rows: &[Value],
        next: Option<&str>,
        text: impl FnOnce(&[Value]) -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            return print_line(&json!({ "items": rows, "next": next }).to_string());
        }
        print_line(&text(rows))
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// A merge patch (RFC 7396): `null` clears a field.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let request = self.request(Method::PATCH, path);
        self.send(request.header(CONTENT_TYPE, "application/merge-patch+json").body(body.to_string())).await
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request =
            self.http.request(method, format!("{}{path}", self.base)).timeout(config::CLI_REQUEST_TIMEOUT);
        match &self.token {
            Ok(token) => request.header(AUTHORIZATION, token),
            Err(_) => request,
        }
    }

    /// # Errors
    /// When the server does not answer, or the answer is not 2xx with a JSON object.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = self.answer_to(request).await?;
        self.read(response).await
    }

    async fn answer_to(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let sent = with_spinner("the server is working", request.send());
        sent.await.map_err(|error| self.unreachable(&error))
    }

    async fn read(&self, response: Response) -> anyhow::Result<Answer> {
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        let body: Option<Value> = serde_json::from_str(&text).ok().filter(Value::is_object);
        match body {
            Some(body) if status.is_success() => Ok(Answer { status, body, text }),
            Some(problem) => Err(self.problem_error(status, &problem, &text)?),
            None => bail!(
                "{} answered {status} without JSON: check that SECKILL_URL is a seckill server",
                self.base
            ),
        }
    }

    /// As `send`, for an answer without a body.
    pub async fn send_for_nothing(&self, request: RequestBuilder) -> anyhow::Result<()> {
        let response = self.answer_to(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(());
        }
        self.read(response).await.map(drop)
    }

    /// Prints the server's document with `--json`, else the given text.
    pub fn print(&self, answer: &Answer, text: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        if self.json { print_document(&answer.text) } else { print_line(&text(&answer.body)) }
    }

    /// The error for an answer that is not 2xx. With `--json` this also prints the answer's document.
    fn problem_error(
        &self,
        status: StatusCode,
        problem: &Value,
        text: &str,
    ) -> anyhow::Result<anyhow::Error> {
        if self.json {
            print_document(text)?;
        }
        match &self.token {
            Err(why) if status == StatusCode::UNAUTHORIZED => Ok(anyhow!("{why}")),
            Ok(_) if status == StatusCode::UNAUTHORIZED => Ok(anyhow!(
                "{}: check SECKILL_ADMIN_TOKEN, or that SECKILL_DATA_DIR is the server's data directory",
                describe(status, problem)
            )),
            _ if status == StatusCode::NOT_FOUND => {
                Ok(anyhow!("{}{}", describe(status, problem), advice(problem)))
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Ok(Transient(describe(status, problem)).into()),
            _ => Ok(anyhow!(describe(status, problem))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let base = &self.base;
        if error.is_builder() {
            return anyhow!("cannot send a request to {base}: {}", root_cause(error));
        }
        let why = if is_connection_refused(error) {
            format!("no server answers at {base}: start one with `seckill serve` or set SECKILL_URL")
        } else if error.is_connect() {
            format!("cannot reach {base}: {}: check SECKILL_URL", root_cause(error))
        } else if error.is_timeout() {
            format!(
                "{base} did not answer in time: it is not known whether the command took effect; you can run it again"
            )
        } else {
            format!(
                "the connection to {base} broke ({}): it is not known whether the command took effect; you can run it \
                 again",
                root_cause(error)
            )
        };
        Transient(why).into()
    }
}

/// Whether requests to a server may use a proxy. A proxy cannot reach this machine's loopback.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Loopback,
    Remote,
}

/// An HTTP client that follows no redirect, so that the token never reaches another server.
pub fn http_client(network: Network) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .timeout(config::CLI_REQUEST_TIMEOUT)
        .connect_timeout(config::CLI_CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("seckill/", env!("CARGO_PKG_VERSION")));
    let builder = if network == Network::Loopback { builder.no_proxy() } else { builder };
    Ok(builder.build()?)
}

/// A problem (RFC 9457) as one line: its detail, the times of the sale, and its code.
pub fn describe(status: StatusCode, problem: &Value) -> String {
    let member = |name: &str| problem[name].as_str().map(single_line).filter(|text| !text.is_empty());
    let mut line = member("detail").or_else(|| member("title")).unwrap_or_else(|| status.to_string());
    for name in ["starts_at", "ends_at"] {
        if let Some(value) = member(name).filter(|value| !line.contains(value)) {
            line = format!("{line} ({name} {value})");
        }
    }
    let code = member("code").unwrap_or_else(|| status.as_u16().to_string());
    format!("{line} [{code}]")
}

/// What the operator can do about something that is not there.
fn advice(problem: &Value) -> &'static str {
    match (problem["code"].as_str(), problem["detail"].as_str()) {
        (Some("unknown-coupon"), _) => ": `seckill coupon list` shows all coupons",
        (Some("not-waiting"), _) => ": `seckill waitlist list` shows who waits",
        (_, Some("there is nothing at this address")) => ": check SECKILL_URL",
        (_, Some("there is no such order")) => ": `seckill order list` shows the recorded orders",
        (_, Some(detail)) if detail.starts_with("there is no dead letter") => {
            ": `seckill dead list` shows all"
        }
        _ => "",
    }
}

/// The text of the innermost error.
pub fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn is_connection_refused(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        source = cause.source();
    }
    false
}

fn print_document(text: &str) -> anyhow::Result<()> {
    if text.contains(['\n', '\r']) {
        let document: Value = serde_json::from_str(text)?;
        return print_line(&document.to_string());
    }
    print_line(text)
}

fn parse_base(text: &str) -> anyhow::Result<Url> {
    let wrong = |why: &str| WrongUsage(format!("SECKILL_URL {why}, such as http://127.0.0.1:8080"));
    let url = Url::parse(text).map_err(|_| wrong("must be an http:// or https:// address"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("must be an http:// or https:// address").into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("must hold no user or password (set SECKILL_ADMIN_TOKEN instead)").into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("must be an address without `?` and `#`").into());
    }
    Ok(url)
}

fn network_of(url: &Url) -> Network {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => is_loopback(address.into()),
        Some(Host::Ipv6(address)) => is_loopback(address.into()),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if loopback { Network::Loopback } else { Network::Remote }
}

/// The token as a header, or the reason why there is none.
fn admin_token(settings: &ServerSettings) -> anyhow::Result<Result<HeaderValue, String>> {
    let token = match &settings.admin_token {
        Some(token) => token.clone(),
        None => match read_secret(&DataDir::locate(settings.data_dir.as_deref()), ADMIN_TOKEN) {
            Ok(token) => token,
            Err(why) => return Ok(Err(format!("{why:#}"))),
        },
    };
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))?;
    header.set_sensitive(true);
    Ok(Ok(header))
}
