//! `REDIS_URL`: one server (`redis://`, `rediss://`, `redis+unix://`), or nodes of a cluster or Sentinels
//! (`redis-cluster://h:p?node=h:p`, `redis-sentinel://h:p?sentinelServiceName=m&node=h:p`), with `rediss-` for TLS and
//! with `valkey` in place of `redis`. Errors do not show the address: it may contain a password.

use std::path::PathBuf;

use anyhow::{Context, bail};
use fred::types::config::{Config, ServerConfig};
use url::{Host, Url};

use super::{Node, Topology};
use crate::config::StoreAddresses;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

/// A readable `REDIS_URL`.
pub struct Address {
    /// User, password, TLS and database; with one server also its address.
    pub config: Config,
    pub(in super::super) topology: Topology,
    /// The path of a Unix socket.
    pub socket: Option<PathBuf>,
}

impl Address {
    /// # Errors
    /// For a scheme that is not in this file's description, and for parts that are missing or cannot be used.
    pub fn read(addresses: &StoreAddresses) -> anyhow::Result<Self> {
        let text = addresses.redis_url.as_str();
        let scheme = text.split("://").next().unwrap_or_default();
        let (base, kind) = scheme.rsplit_once('-').unwrap_or((scheme, ""));
        let plain = match (base, kind) {
            ("redis+unix", "") => "redis+unix",
            ("redis", "") | ("redis" | "valkey", "cluster" | "sentinel") => "redis",
            ("rediss", "") | ("rediss" | "valkeys", "cluster" | "sentinel") => "rediss",
            _ => bail!(
                "REDIS_URL must start with redis://, rediss:// or redis+unix://, or with redis-cluster:// or \
                 redis-sentinel://"
            ),
        };
        let socket = addresses.redis_socket()?;
        let text = format!("{plain}{}", &text[scheme.len()..]);
        let url = Url::parse(&text).context("REDIS_URL is not a URL")?;
        let topology = match kind {
            "cluster" => cluster(&url)?,
            "sentinel" => sentinel(&url)?,
            _ => Topology::Single,
        };
        let mut config = Config::from_url(&text).context("REDIS_URL is not a valid address")?;
        if let Some(path) = &socket {
            // fred does not decode percent signs in the path.
            config.server = ServerConfig::new_unix_socket(path.clone());
        }
        config.fail_fast = true;
        Ok(Self { config, topology, socket })
    }
}

fn cluster(url: &Url) -> anyhow::Result<Topology> {
    if url.path().trim_matches('/').parse::<u8>().is_ok_and(|database| database != 0) {
        bail!("REDIS_URL: a cluster has no database but 0");
    }
    Ok(Topology::Cluster { seeds: seeds(url, REDIS_PORT)? })
}

fn sentinel(url: &Url) -> anyhow::Result<Topology> {
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, v)| v.into_owned());
    let service = parameter("sentinelServiceName").filter(|name| !name.is_empty());
    let service = service.context("REDIS_URL: redis-sentinel:// needs ?sentinelServiceName=NAME")?;
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    // Without users of their own, Sentinels get the user and password of the address; an empty one means none.
    let own_user = (!url.username().is_empty()).then(|| decoded(url.username()));
    let (user, password) = match parameter("sentinelPassword") {
        Some(password) => (parameter("sentinelUsername"), Some(password)),
        None => (own_user, url.password().map(decoded)),
    };
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let seeds = seeds(url, SENTINEL_PORT)?;
    Ok(Topology::Sentinel { seeds, service, user: given(user), password: given(password) })
}

/// The host of the address and each `node=`.
fn seeds(url: &Url, default_port: u16) -> anyhow::Result<Vec<Node>> {
    let host = match url.host().filter(|host| *host != Host::Domain("")) {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
        None => bail!("REDIS_URL has no host"),
    };
    let mut seeds = vec![Node { host, port: url.port().unwrap_or(default_port) }];
    for (_, text) in url.query_pairs().filter(|(key, _)| key == "node") {
        let node = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let node = node.filter(|(host, _)| !host.is_empty());
        let (host, port) = node.with_context(|| format!("REDIS_URL: node={text} is not HOST:PORT"))?;
        seeds.push(Node { host: host.trim_matches(['[', ']']).to_owned(), port });
    }
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(url: &str) -> anyhow::Result<Address> {
        Address::read(&StoreAddresses { redis_url: url.to_owned(), database_url: String::new() })
    }

    fn listed(seeds: &[Node]) -> String {
        seeds.iter().map(Node::to_string).collect::<Vec<_>>().join(" ")
    }

    #[rstest]
    #[case("redis-cluster://a:7000?node=b:7001&node=c:7002", "a:7000 b:7001 c:7002", false)]
    #[case("rediss-cluster://alice:p%40ss@[::1]/?node=[::2]:7001", "[::1]:6379 [::2]:7001", true)]
    #[case("valkey-cluster://a/0", "a:6379", false)]
    #[case("valkeys-cluster://a:1", "a:1", true)]
    fn a_cluster_has_the_nodes_of_its_address(#[case] url: &str, #[case] nodes: &str, #[case] has_tls: bool) {
        let address = read(url).unwrap();
        let Topology::Cluster { seeds } = address.topology else { panic!("{url}") };
        assert_eq!(listed(&seeds), nodes);
        assert_eq!(address.config.tls.is_some(), has_tls);
        if url.contains("alice") {
            assert_eq!(address.config.username.as_deref(), Some("alice"));
            assert_eq!(address.config.password.as_deref(), Some("p@ss"));
        }
    }

    #[rstest]
    #[case("?sentinelServiceName=m&node=b:1", Some("shop"), Some("s"))]
    #[case("?sentinelServiceName=m&node=b:1&sentinelPassword=x", None, Some("x"))]
    #[case("?sentinelServiceName=m&node=b:1&sentinelUsername=u&sentinelPassword=x", Some("u"), Some("x"))]
    #[case("?sentinelServiceName=m&node=b:1&sentinelPassword=", None, None)]
    fn sentinels_get_their_own_user_or_the_one_of_the_address(
        #[case] query: &str,
        #[case] expected_user: Option<&str>,
        #[case] expected_password: Option<&str>,
    ) {
        let address = read(&format!("redis-sentinel://shop:s@a/2{query}")).unwrap();
        let Topology::Sentinel { seeds, service, user, password } = address.topology else { panic!() };
        assert_eq!((listed(&seeds).as_str(), service.as_str()), ("a:26379 b:1", "m"));
        assert_eq!((user.as_deref(), password.as_deref()), (expected_user, expected_password));
        assert_eq!(address.config.database, Some(2));
        assert_eq!(address.config.password.as_deref(), Some("s"), "the master's own");
    }

    #[rstest]
    #[case("redis-sentinel://:secret@h:1/s", "sentinelServiceName")]
    #[case("redis-cluster://:secret@h:1?node=h", "HOST:PORT")]
    #[case("redis-cluster://:secret@h:1/2", "database")]
    #[case("redis-cluster://?node=h:1", "host")]
    #[case("redis+sentinel://:secret@h:1", "redis-sentinel://")]
    #[case("http://:secret@h:1", "redis+unix://")]
    fn an_unusable_address_is_refused_without_its_password(#[case] url: &str, #[case] why: &str) {
        let Err(error) = read(url) else { panic!("{url} is accepted") };
        let error = format!("{error:#}");
        assert!(error.contains(why) && !error.contains("secret"), "{error}");
    }
}
