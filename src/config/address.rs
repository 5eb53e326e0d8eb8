//! Parses the address on which the server listens, and recognises loopback addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An IP address and a port, or `localhost` and a port. `localhost` always means 127.0.0.1.
///
/// # Errors
/// For any other text, with examples of what to write.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port = port.parse::<u16>().ok();
    if host.eq_ignore_ascii_case("localhost")
        && let Some(port) = port
    {
        return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    let port = port.or_else(|| text.parse().ok()).unwrap_or(8080);
    Err(format!(
        "must be an IP address and a port: write 127.0.0.1:{port} for this machine only, 0.0.0.0:{port} or \
         [::]:{port} for every network, or localhost:{port}"
    ))
}

/// Whether only this machine can reach an address. A socket on `[::]` reports clients from 127.0.0.1 as
/// `::ffff:127.0.0.1`.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_parsed_and_any_other_text_is_refused_with_an_example() {
        for (text, address) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::]:8080", "[::]:8080"),
            ("[::1]:1", "[::1]:1"),
            ("localhost:9000", "127.0.0.1:9000"),
            ("LocalHost:0", "127.0.0.1:0"),
        ] {
            assert_eq!(parse_listen(text), Ok(address.parse().unwrap()), "{text}");
        }
        for (text, example) in [
            (":9000", "0.0.0.0:9000"),
            ("9000", "127.0.0.1:9000"),
            ("*:9000", "[::]:9000"),
            ("localhost", "localhost:8080"),
            ("localhost:", "localhost:8080"),
            ("localhost:70000", "127.0.0.1:8080"),
            ("127.0.0.1", "127.0.0.1:8080"),
            ("::1:9000", "127.0.0.1:9000"),
            ("shop.example:9000", "127.0.0.1:9000"),
            ("http://127.0.0.1:9000", "127.0.0.1:9000"),
            ("127.0.0.1:9000 ", "127.0.0.1:8080"),
            ("", "127.0.0.1:8080"),
        ] {
            let refused = parse_listen(text).unwrap_err();
            assert!(refused.contains(example), "{text}: {refused}");
        }
    }

    #[test]
    fn a_mapped_ipv6_address_counts_as_its_ipv4_address() {
        for (address, loopback) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), loopback, "{address}");
        }
    }
}
