//! Requests to the server.

use std::sync::Once;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Sale;
use crate::answer::Answer;
use crate::description::assert_describes;
use crate::wait::DEADLINE;

impl Sale {
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.send(Method::GET, path, &[("authorization", &format!("Bearer {token}"))], None).await
    }

    /// Sends a request with the admin token.
    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let authorization = format!("Bearer {}", self.admin_token());
        self.send(method, path, &[("authorization", &authorization)], body).await
    }

    /// Sends a request with a JSON body; a failed connection is a status of 0.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let json = body.map(|body| body.to_string());
        let mut headers = headers.to_vec();
        if json.is_some() {
            headers.push(("content-type", "application/json"));
        }
        self.send_bytes(method, path, &headers, json).await
    }

    /// Sends a request with a body of any bytes. Fails for an answer that the API's description does not have.
    pub async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<impl Into<reqwest::Body>>,
    ) -> Answer {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.url));
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request = request.header(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        match request.send().await {
            Ok(response) => {
                let (status, headers) = (response.status().as_u16(), response.headers().clone());
                let text = response.text().await.unwrap_or_default();
                let body = serde_json::from_str(&text).unwrap_or(Value::Null);
                let answer = Answer { status, headers, text, body };
                assert_describes(&method, path, &answer);
                answer
            }
            Err(error) => {
                Answer { status: 0, headers: HeaderMap::new(), text: error.to_string(), body: Value::Null }
            }
        }
    }

    /// Sends bytes and returns all that the server sends until it closes the connection.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        read.expect("the server closes the connection").unwrap();
        String::from_utf8(answer).unwrap()
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.url.strip_prefix("http://").unwrap()).await.unwrap()
    }

    /// Creates a coupon without a window.
    pub async fn create(&self, coupon: &str, total: i64) {
        self.create_with(coupon, json!({"total": total})).await;
    }

    /// Creates a coupon with these fields.
    pub async fn create_with(&self, coupon: &str, fields: Value) {
        let mut body = json!({"id": coupon});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = self.admin(Method::POST, "/v1/admin/coupons", Some(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }

    pub async fn claim(&self, coupon: &str, user: &str) -> Answer {
        self.claim_with(coupon, user, &[]).await
    }

    pub async fn claim_with(&self, coupon: &str, user: &str, headers: &[(&str, &str)]) -> Answer {
        let authorization = format!("Bearer {}", self.token(user));
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend(headers);
        self.send(Method::POST, &format!("/v1/coupons/{coupon}/claims"), &all, None).await
    }
}

/// An HTTP client that ignores the machine's proxy settings.
pub fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("installed once");
    });
    Client::builder().no_proxy().timeout(DEADLINE).build().unwrap()
}
