//! `seckill healthcheck`: what a container engine runs beside the server to learn whether it is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{anyhow, bail};
use serde_json::Value;
use url::Url;

use super::client::{Network, describe, http_client, root_cause};
use crate::config::HttpSettings;

pub async fn run(http: &HttpSettings) -> anyhow::Result<()> {
    let address = reachable(http.listen);
    if address.port() == 0 {
        bail!("SECKILL_LISTEN has port 0, so the server's port is not known: give it a fixed one");
    }
    let url = Url::parse(&format!("http://{address}/readyz"))?;
    let response = http_client(Network::ThisMachine)?.get(url).send().await;
    let response =
        response.map_err(|error| anyhow!("nothing answers at {address}: {}", root_cause(&error)))?;
    let status = response.status();
    if status == reqwest::StatusCode::OK {
        return Ok(());
    }
    let problem = response.json().await.unwrap_or(Value::Null);
    bail!("not ready: {}", describe(status, &problem))
}

/// A server that listens everywhere is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
