//! `seckill redis-cli`: runs redis-cli with the Redis address as arguments. The password is passed in the environment,
//! because every user of the machine can read arguments.

use std::process::Command;

use anyhow::{Context, bail};
use url::{Host, Url};

use super::store_tools::{self, ToolArgs, percent_decoded};

const DEFAULT_PORT: u16 = 6379;

pub async fn run(args: ToolArgs) -> anyhow::Result<()> {
    let addresses = store_tools::answering_addresses(&args.stores).await?;
    let mut command = redis_cli(&addresses.redis_url)?;
    command.args(&args.args);
    Err(store_tools::exec(command, "redis-tools"))
}

fn redis_cli(address: &str) -> anyhow::Result<Command> {
    // Errors do not show the address: it may contain a password.
    let url = Url::parse(address).context("REDIS_URL is not a valid address")?;
    let mut command = Command::new("redis-cli");
    match url.scheme() {
        "redis" => add_host(&mut command, &url)?,
        // redis-cli follows the redirects of the cluster by itself.
        "redis-cluster" | "valkey-cluster" => {
            command.arg("-c");
            add_host(&mut command, &url)?;
        }
        "rediss" | "rediss-cluster" | "valkeys-cluster" => {
            if url.scheme() != "rediss" {
                command.arg("-c");
            }
            add_host(&mut command, &url)?;
            command.arg("--tls");
            if let Some(Host::Domain(name)) = url.host() {
                command.args(["--sni", name]);
            }
        }
        "redis+unix" => {
            command.arg("-s").arg(percent_decoded(url.path()));
        }
        scheme => {
            bail!(
                "REDIS_URL starts with {scheme}://: only redis://, rediss://, redis+unix:// and redis-cluster:// are \
                 supported; ask a Sentinel for the master, and run redis-cli with its address"
            )
        }
    }
    if let Some(database) = database(&url)? {
        command.args(["-n", &database.to_string()]);
    }
    match url.password() {
        Some(password) => command.env("REDISCLI_AUTH", percent_decoded(password)),
        None => command.env_remove("REDISCLI_AUTH"),
    };
    if !url.username().is_empty() {
        command.arg("--user").arg(percent_decoded(url.username()));
    }
    Ok(command)
}

fn add_host(command: &mut Command, url: &Url) -> anyhow::Result<()> {
    let host = match url.host().context("REDIS_URL has no host")? {
        Host::Ipv6(address) => address.to_string(),
        host => host.to_string(),
    };
    command.args(["-h", &host, "-p", &url.port().unwrap_or(DEFAULT_PORT).to_string()]);
    Ok(())
}

/// The database of `redis://host/2` or `?db=2`. The path of a Unix socket names no database.
fn database(url: &Url) -> anyhow::Result<Option<u32>> {
    let in_path = url.path().trim_matches('/').to_owned();
    let in_path = Some(in_path).filter(|path| !path.is_empty() && url.scheme() != "redis+unix");
    let in_query = url.query_pairs().find(|(key, _)| key == "db").map(|(_, value)| value.into_owned());
    let number = in_query.or(in_path);
    let number = number
        .map(|text| text.parse().with_context(|| format!("REDIS_URL: database {text:?} is not a number")));
    number.transpose()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("redis://shop:6380", "-h shop -p 6380", None)]
    #[case("redis://shop", "-h shop -p 6379", None)]
    #[case("redis://[::1]:7000/3", "-h ::1 -p 7000 -n 3", None)]
    #[case("redis://:p%40ss@shop?db=4", "-h shop -p 6379 -n 4", Some("p@ss"))]
    #[case("redis://alice:secret@shop", "-h shop -p 6379 --user alice", Some("secret"))]
    #[case("rediss://shop.example/0", "-h shop.example -p 6379 --tls --sni shop.example -n 0", None)]
    #[case("redis-cluster://shop:7000?node=shop:7001", "-c -h shop -p 7000", None)]
    #[case("rediss-cluster://shop", "-c -h shop -p 6379 --tls --sni shop", None)]
    #[case("redis+unix:///run/a%20b/redis.sock?db=1", "-s /run/a b/redis.sock -n 1", None)]
    #[case("redis+unix://u:p@host/run/redis.sock", "-s /run/redis.sock --user u", Some("p"))]
    fn an_address_becomes_arguments_without_its_password(
        #[case] address: &str,
        #[case] arguments: &str,
        #[case] password: Option<&str>,
    ) {
        let command = redis_cli(address).unwrap();
        let given: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(given.join(" "), arguments);
        let auth = command.get_envs().find(|(name, _)| *name == "REDISCLI_AUTH").unwrap().1;
        assert_eq!(auth.map(|value| value.to_str().unwrap()), password);
    }

    #[rstest]
    #[case("redis-sentinel://:secret@shop")]
    #[case("redis://:secret@shop/first")]
    #[case("redis://:secret@")]
    fn an_unusable_address_is_refused_without_its_password(#[case] address: &str) {
        let error = format!("{:#}", redis_cli(address).unwrap_err());
        assert!(!error.contains("secret"), "{error}");
    }
}
