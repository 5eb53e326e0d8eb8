//! `seckill psql`: runs psql with the Postgres address and with the schema as its search path. Passwords are passed in
//! the environment, because every user of the machine can read arguments.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use anyhow::{Context, anyhow, ensure};
use url::Url;

use super::store_tools::{self, ToolArgs, percent_decoded};

/// Variables of libpq that select the server, the database and the user
/// (<https://www.postgresql.org/docs/current/libpq-envars.html>).
const TARGET_VARIABLES: [&str; 10] = [
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
    let addresses = store_tools::answering_addresses(&args.stores).await?;
    let inherited = env::vars_os().map(|(name, _)| name).filter(|name| overrides_address(name, is_embedded));
    let inherited: Vec<OsString> = inherited.collect();
    let inherited_options = env::var_os("PGOPTIONS").filter(|_| !is_embedded).unwrap_or_default();
    let mut command = psql(&addresses.database_url, &args.stores.db_schema, inherited_options, &inherited)?;
    command.args(&args.args);
    Err(store_tools::exec(command, "postgresql-client"))
}

/// Whether a variable could override the address. With embedded stores, psql gets no variables of libpq. With external
/// stores, psql gets those that do not select a server, such as the password or a timeout.
fn overrides_address(name: &OsStr, is_embedded: bool) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"PG")
        && (is_embedded || TARGET_VARIABLES.iter().any(|variable| variable.as_bytes() == name))
}

fn psql(
    address: &str,
    schema: &str,
    inherited_options: OsString,
    removed: &[OsString],
) -> anyhow::Result<Command> {
    // Errors do not show the address: it may contain a password.
    let mut url = Url::parse(address)
        .context("DATABASE_URL is not a valid address (in a password, write `/` as %2F and `@` as %40)")?;
    ensure!(matches!(url.scheme(), "postgres" | "postgresql"), "DATABASE_URL must start with postgres://");

    let mut command = Command::new("psql");
    for name in removed {
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

/// Removes every password from the address, and returns that of the database user.
fn take_password(url: &mut Url) -> anyhow::Result<Option<OsString>> {
    let mut password = url.password().map(percent_decoded);
    if password.is_some() {
        url.set_password(None).map_err(|()| anyhow!("DATABASE_URL has a password but no host"))?;
    }
    let mut kept = Vec::new();
    for parameter in parameters(url) {
        match name_of(&parameter).to_str() {
            Some("password") => {
                password = Some(percent_decoded(parameter.split_once('=').map_or("", |(_, value)| value)));
            }
            // The passphrase of a client key has no environment variable: psql asks the user for it.
            Some("sslpassword") => {}
            _ => kept.push(parameter),
        }
    }
    url.set_query(Some(kept.join("&")).as_deref().filter(|query| !query.is_empty()));
    Ok(password)
}

/// Adds the search path to the `options` of the address, since libpq ignores PGOPTIONS if the address has `options`.
/// `false` if the address has none.
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
    percent_decoded(parameter.split_once('=').map_or(parameter, |(name, _)| name))
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
