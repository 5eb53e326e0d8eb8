//! `seckill psql`: the Postgres address, without its passwords, as the connection of the real psql,
//! and the schema as its search path. Passwords go by environment, since every user can read arguments.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;

use anyhow::{Context, anyhow, ensure};
use percent_encoding::percent_decode_str;
use url::Url;

use super::tool::{self, ToolArgs};

/// libpq's variables that say which server, database and user is meant.
const PLACES: [&str; 10] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGTARGETSESSIONATTRS",
    "PGLOADBALANCEHOSTS",
];

pub async fn run(args: ToolArgs) -> anyhow::Result<()> {
    let is_embedded = args.stores.external_addresses()?.is_none();
    let addresses = tool::addresses(&args.stores).await?;
    let inherited = env::vars_os().map(|(name, _)| name).filter(|name| leads_elsewhere(name, is_embedded));
    let inherited: Vec<OsString> = inherited.collect();
    let inherited_options = env::var_os("PGOPTIONS").filter(|_| !is_embedded).unwrap_or_default();
    let mut command = psql(&addresses.database_url, &args.stores.db_schema, inherited_options, &inherited)?;
    command.args(&args.args);
    Err(tool::exec(command, "postgresql-client"))
}

/// Whether a variable of libpq's would lead psql to another place than the address. The embedded store's address says
/// everything; one of the operator's leaves to libpq what is no place, such as a password or a time-out.
fn leads_elsewhere(name: &OsStr, is_embedded: bool) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"PG") && (is_embedded || PLACES.iter().any(|place| place.as_bytes() == name))
}

fn psql(
    address: &str,
    schema: &str,
    inherited_options: OsString,
    unwanted: &[OsString],
) -> anyhow::Result<Command> {
    // The address itself stays out of the errors: it may hold a password.
    let mut url = Url::parse(address)
        .context("DATABASE_URL is no valid address (in a password, `/` is written %2F and `@` %40)")?;
    ensure!(matches!(url.scheme(), "postgres" | "postgresql"), "DATABASE_URL must start with postgres://");

    let mut command = Command::new("psql");
    for name in unwanted {
        command.env_remove(name);
    }
    if let Some(password) = take_password(&mut url)? {
        command.env("PGPASSWORD", password);
    }
    if !extend_options(&mut url, schema) {
        let mut options = inherited_options;
        if !options.is_empty() {
            options.push(" ");
        }
        options.push(format!("-c search_path={schema}"));
        command.env("PGOPTIONS", options);
    }
    command.arg(format!("--dbname={url}"));
    Ok(command)
}

/// Removes every password from the address; the one of the database comes back.
fn take_password(url: &mut Url) -> anyhow::Result<Option<OsString>> {
    let mut password = url.password().map(decode);
    if password.is_some() {
        url.set_password(None).map_err(|()| anyhow!("DATABASE_URL has a password but no host"))?;
    }
    let mut kept = Vec::new();
    for parameter in parameters(url) {
        match name_of(&parameter).to_str() {
            Some("password") => {
                password = Some(decode(parameter.split_once('=').map_or("", |(_, value)| value)));
            }
            // A client key's passphrase has no environment variable: psql asks for it.
            Some("sslpassword") => {}
            _ => kept.push(parameter),
        }
    }
    url.set_query(Some(kept.join("&")).as_deref().filter(|query| !query.is_empty()));
    Ok(password)
}

/// `options` in an address makes libpq ignore PGOPTIONS: the search path then has to go there.
fn extend_options(url: &mut Url, schema: &str) -> bool {
    let mut parameters = parameters(url);
    let Some(options) = parameters.iter_mut().rfind(|parameter| name_of(parameter) == "options") else {
        return false;
    };
    *options = format!("{options}%20-c%20search_path%3D{schema}");
    url.set_query(Some(&parameters.join("&")));
    true
}

fn parameters(url: &Url) -> Vec<String> {
    url.query().into_iter().flat_map(|query| query.split('&')).map(str::to_owned).collect()
}

fn name_of(parameter: &str) -> OsString {
    decode(parameter.split_once('=').map_or(parameter, |(name, _)| name))
}

fn decode(text: &str) -> OsString {
    OsString::from_vec(percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn env_of(command: &Command, variable: &str) -> Option<String> {
        let value = command.get_envs().find(|(name, _)| *name == variable)?.1?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[rstest]
    #[case("postgres://shop@db/sale", "postgres://shop@db/sale", None)]
    #[case(
        "postgres://shop:p%40ss@db:5433/sale?sslmode=require",
        "postgres://shop@db:5433/sale?sslmode=require",
        Some("p@ss")
    )]
    #[case("postgresql://db/sale?user=shop&p%61ssword=a+b", "postgresql://db/sale?user=shop", Some("a+b"))]
    #[case("postgres://db/sale?sslpassword=x", "postgres://db/sale", None)]
    #[case("postgres://a@localhost/sale?host=/run/pg", "postgres://a@localhost/sale?host=/run/pg", None)]
    fn an_address_loses_its_password_and_nothing_else(
        #[case] address: &str,
        #[case] connection: &str,
        #[case] password: Option<&str>,
    ) {
        let command = psql(address, "seckill", OsString::new(), &[]).unwrap();
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, [format!("--dbname={connection}").as_str()]);
        assert_eq!(env_of(&command, "PGPASSWORD").as_deref(), password);
        assert_eq!(env_of(&command, "PGOPTIONS").as_deref(), Some("-c search_path=seckill"));
    }

    #[test]
    fn the_search_path_comes_after_options_that_are_there_already() {
        let command = psql("postgres://db/sale", "shop", "-c geqo=off".into(), &[]).unwrap();
        assert_eq!(env_of(&command, "PGOPTIONS").as_deref(), Some("-c geqo=off -c search_path=shop"));

        let command =
            psql("postgres://db/sale?options=-c%20geqo%3Doff&x=1", "shop", OsString::new(), &[]).unwrap();
        assert_eq!(
            command.get_args().collect::<Vec<_>>(),
            ["--dbname=postgres://db/sale?options=-c%20geqo%3Doff%20-c%20search_path%3Dshop&x=1"]
        );
    }

    #[rstest]
    #[case("postgres://shop:sec?ret@db/sale")]
    #[case("postgres://shop:sec/ret@db/sale")]
    #[case("mysql://shop:secret@db/sale")]
    fn an_unusable_address_is_refused_without_its_password(#[case] address: &str) {
        let error = format!("{:#}", psql(address, "seckill", OsString::new(), &[]).unwrap_err());
        assert!(!error.contains("sec"), "{error}");
    }
}
