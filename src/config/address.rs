//! Addresses on which the server listens, and which addresses are this machine's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An IP address with a port, or `localhost` with one, which is 127.0.0.1 whatever a resolver says.
///
/// # Errors
/// For everything else, with what to write instead.
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
        "must be an IP address and a port: write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} or \
         [::]:{port} for every network, or localhost:{port}"
    ))
}

/// Whether an address is reached from this machine alone. A socket on `[::]` shows clients from 127.0.0.1 as
/// `::ffff:127.0.0.1`.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_what_is_none_is_answered_with_one() {
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
    fn a_mapped_address_is_the_one_that_it_maps() {
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
