//! `seckill healthcheck`: a container engine runs it next to the server to check whether the server is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{anyhow, bail};
use serde_json::Value;
use url::Url;

use super::client::{Network, describe, http_client, root_cause};
use crate::config::HttpSettings;

pub async fn run(http: &HttpSettings) -> anyhow::Result<()> {
    let address = connect_address(http.listen);
    if address.port() == 0 {
        bail!("SECKILL_LISTEN has port 0, so the server's port is not known: set a fixed port");
    }
    let url = Url::parse(&format!("http://{address}/readyz"))?;
    let response = http_client(Network::Loopback)?.get(url).send().await;
    let response =
        response.map_err(|error| anyhow!("no server answers at {address}: {}", root_cause(&error)))?;
    let status = response.status();
    if status == reqwest::StatusCode::OK {
        return Ok(());
    }
    let problem = response.json().await.unwrap_or(Value::Null);
    bail!("not ready: {}", describe(status, &problem))
}

/// The address to connect to: loopback, if the server listens on all addresses.
fn connect_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
