//! Pages of others in a browser on this machine. Where no token is asked for, whoever can connect to loopback may ask, and so could every page that a browser
//! here shows: by a name of its own that it points at 127.0.0.1 (DNS rebinding), or by a request to another origin, which a browser sends although the page
//! may not see the answer. Browsers tell both, by `Host` and `Origin`; programs that are none name this machine, or nothing.
//!
//! Where tokens are asked for, the token is the proof: a page of others has none.

use super::Problem;
use axum::http::{
    HeaderMap, Method, StatusCode,
    header::{HOST, ORIGIN},
};
use std::net::{IpAddr, Ipv6Addr};

/// Refuses what a page of others may have made a browser send.
pub(super) fn check(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    if !hosts.all(|host| host.to_str().is_ok_and(is_loopback)) {
        let text =
            "without tokens this is for this machine: the Host has to be localhost or a loopback address";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, text));
    }
    let ours = |origin: &str| headers.get(HOST).is_some_and(|host| is_at(origin, host.as_bytes()));
    let mut origins = headers.get_all(ORIGIN).iter();
    if !method.is_safe() && !origins.all(|origin| origin.to_str().is_ok_and(ours)) {
        let text = "a page of another origin may not change anything here";
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    Ok(())
}

/// Whether a `Host`, with or without a port, names this machine whoever looks it up.
fn is_loopback(host: &str) -> bool {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return is_port(port) && address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback());
    }
    let (name, port) = host.find(':').map_or((host, ""), |colon| host.split_at(colon));
    let address = || name.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    is_port(port) && (name.eq_ignore_ascii_case("localhost") || address())
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Whether a page of this origin came from this host.
fn is_at(origin: &str, host: &[u8]) -> bool {
    origin.strip_prefix("http://").is_some_and(|origin| origin.as_bytes().eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        http::{HeaderName, HeaderValue},
        response::IntoResponse,
    };

    fn status(method: &Method, fields: &[(HeaderName, &'static str)]) -> u16 {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| _ = headers.append(name, value));
        check(method, &headers).map_or_else(|problem| problem.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn only_names_that_nobody_else_can_give_out_are_this_machine() {
        for host in
            ["127.0.0.1", "127.0.0.1:7421", "127.1.2.3:1", "localhost", "LocalHost:80", "[::1]", "[::1]:7421"]
        {
            assert_eq!(status(&Method::GET, &[(HOST, host)]), 200, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7421",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:7421@evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::1",
            "[::1]x",
            "::1",
            "localhost:",
            "localhost:x",
            "localhost ",
        ] {
            assert_eq!(status(&Method::GET, &[(HOST, host)]), 421, "{host}");
        }
        assert_eq!(status(&Method::GET, &[(HOST, "localhost"), (HOST, "evil.example")]), 421);
        // No browser leaves it out.
        assert_eq!(status(&Method::GET, &[]), 200);
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let ask = |method: &Method, origin| status(method, &[(HOST, "127.0.0.1:7421"), (ORIGIN, origin)]);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert_eq!(ask(&method, "http://127.0.0.1:7421"), 200, "{method}");
            for origin in [
                "null",
                "http://evil.example",
                "http://127.0.0.1",
                "http://127.0.0.1:7420",
                "http://localhost:7421",
                "https://127.0.0.1:7421",
                "http://127.0.0.1:7421/",
            ] {
                assert_eq!(ask(&method, origin), 403, "{method} from {origin}");
            }
            assert_eq!(status(&method, &[(HOST, "localhost")]), 200, "a program that is no browser");
            assert_eq!(status(&method, &[(ORIGIN, "http://localhost")]), 403);
        }
        // It may ask for what it cannot read.
        assert_eq!(ask(&Method::GET, "http://evil.example"), 200);
    }
}
