//! Checks a request's head before the request is routed. hyper parses the head. This check also refuses heads that
//! hyper accepts but HTTP forbids, or that two programs could read differently.

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Version};
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use super::request::Request;

/// Headers that may be sent only once.
const SINGLE: [HeaderName; 3] = [HOST, AUTHORIZATION, CONTENT_TYPE];

/// # Errors
/// When the head is invalid or ambiguous.
pub fn check(request: &Request) -> Result<(), Problem> {
    for name in &SINGLE {
        if request.headers.get_all(name).iter().nth(1).is_some() {
            return Err(Problem::bad_request(format!("send the header {} once", title(name))));
        }
    }
    check_host(&request.headers, request.version)?;
    let is_text = percent_decode_str(&request.query).decode_utf8().is_ok();
    if is_text { Ok(()) } else { Err(Problem::bad_request("the query is not UTF-8")) }
}

fn check_host(headers: &HeaderMap, version: Version) -> Result<(), Problem> {
    match headers.get(HOST) {
        None if version == Version::HTTP_11 => {
            Err(Problem::bad_request("the header Host is missing: send one such as localhost:8080"))
        }
        None => Ok(()),
        Some(host) if is_host(host) => Ok(()),
        Some(_) => {
            Err(Problem::bad_request("the header Host is not a host: send one such as localhost:8080"))
        }
    }
}

/// Whether the value is empty (the client's address has no host), or a host with or without a port.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    if text.is_empty() {
        return true;
    }
    let Ok(host) = text.parse::<Authority>() else { return false };
    let has_port = text.len() > host.host().len();
    !text.contains('@') && !host.host().is_empty() && (!has_port || host.port_u16().is_some())
}

fn title(name: &HeaderName) -> &'static str {
    if *name == HOST {
        "Host"
    } else if *name == AUTHORIZATION {
        "Authorization"
    } else {
        "Content-Type"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_or_none() {
        for host in ["x", "x:80", "localhost", "127.0.0.1:8080", "[::1]:8080", "[::1]", "shop.example", ""] {
            assert!(is_host(&HeaderValue::from_static(host)), "{host}");
        }
        for host in [
            "a b", "a/b", "user@x", "x:99999", "x:port", "x:", ":80", "x?y", "x#y", "[::1", "http://x",
            "a\tb",
        ] {
            assert!(!is_host(&HeaderValue::from_static(host)), "{host}");
        }
        assert!(!is_host(&HeaderValue::from_bytes("ä".as_bytes()).unwrap()));
    }
}
