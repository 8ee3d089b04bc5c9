//! What every request must satisfy, and what every answer has.
//!
//! A browser sends requests to this machine for any page that asks it to. So the console looks at which host the browser thinks it is
//! talking to, and at which page has made the request. There are no cookies and no headers for sharing with other origins.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::console::audit::{AuditOutcome, AuditRecord};
use crate::console::http::problem::Problem;
use crate::console::registry::Console;

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Hosts that a request may name, besides loopback addresses.
#[derive(Clone, Debug, Default)]
pub(in crate::console) struct AllowedHosts(Vec<Authority>);

/// A host with its port, if there is one, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    port: Option<u16>,
}

impl AllowedHosts {
    /// Adds a host.
    pub fn add(&mut self, host: String) {
        // What is no host matches no request.
        self.0.extend(Authority::parse(&host));
    }

    fn allow(&self, asked: &Authority) -> bool {
        let is_meant =
            |allowed: &Authority| allowed.host == asked.host && (allowed.port.is_none() || allowed.port == asked.port);
        asked.is_loopback() || self.0.iter().any(is_meant)
    }

    /// Checks where a request comes from.
    ///
    /// # Errors
    /// The reason, if the request could have been made by a page of another site.
    fn check(&self, method: &Method, headers: &HeaderMap, authority: Option<&str>) -> Result<(), Problem> {
        let one = |name| {
            let mut values = headers.get_all(name).iter();
            let value = values.next();
            match (value, values.next()) {
                (_, Some(_)) => Err(()),
                (None, None) => Ok(None),
                (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
            }
        };
        let wrong_host = || {
            Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "the request names a host that this console does not know: use a loopback address, or have the program allow it with `ConsoleBuilder::allow_host`",
            )
        };
        let host = one(header::HOST).map_err(|()| wrong_host())?.or(authority);
        let host = host.and_then(Authority::parse).filter(|host| self.allow(host));
        let host = host.ok_or_else(wrong_host)?;
        let foreign = || Problem::forbidden("the request was made by a page of another site: open the console itself");
        if let Some(origin) = one(header::ORIGIN).map_err(|()| foreign())? {
            let same = Authority::of_origin(origin).is_some_and(|(origin, default)| origin.is_same(&host, default));
            if !same {
                return Err(foreign());
            }
        }
        if !method.is_safe() {
            let site = one(header::HeaderName::from_static("sec-fetch-site")).map_err(|()| foreign())?;
            if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
                return Err(foreign());
            }
        }
        Ok(())
    }
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_plain) {
            return None;
        }
        let port = match port {
            "" => None,
            port => Some(port.parse().ok()?),
        };
        Some(Self {
            host: host.trim_end_matches('.').to_ascii_lowercase(),
            port,
        })
    }

    /// The authority of an origin, and the port that its scheme means if it names none.
    fn of_origin(origin: &str) -> Option<(Self, u16)> {
        let (scheme, authority) = origin.split_once("://")?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some((Self::parse(authority)?, default))
    }

    /// Whether both are the same, where `default` is the port that is left out.
    fn is_same(&self, other: &Self, default: u16) -> bool {
        self.host == other.host && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }

    fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }
}

/// Refuses requests that a page of another site may have made, and sets the headers of every answer.
pub(super) async fn guard(State(console): State<Console>, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let checked = console
        .inner
        .choices
        .hosts
        .check(request.method(), request.headers(), authority.as_deref());
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            if !request.method().is_safe() {
                let outcome = AuditOutcome::Refused(problem.status.as_u16());
                console.audit(AuditRecord::new("request", None, outcome));
            }
            problem.into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(hosts: &AllowedHosts, method: Method, headers: &[(&'static str, &str)]) -> Result<(), u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        hosts
            .check(&method, &map, None)
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn only_known_hosts_are_accepted() {
        let mut hosts = AllowedHosts::default();
        hosts.add("Console.example.com".to_owned());
        hosts.add("other.example:8443".to_owned());
        for (host, accepted) in [
            ("localhost", true),
            ("localhost:80", true),
            ("app.localhost:1", true),
            ("127.0.0.1:9000", true),
            ("127.1.2.3", true),
            ("[::1]:9000", true),
            ("console.example.com", true),
            ("CONSOLE.example.com.:1", true),
            ("other.example:8443", true),
            ("other.example", false),
            ("other.example:8444", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("evil-localhost", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("[::2]", false),
            ("localhost:x", false),
            ("user@localhost", false),
            ("localhost/x", false),
            ("", false),
        ] {
            let expected = if accepted { Ok(()) } else { Err(421) };
            assert_eq!(checked(&hosts, Method::GET, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(checked(&hosts, Method::GET, &[]), Err(421));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(checked(&hosts, Method::GET, &twice), Err(421));
    }

    #[test]
    fn only_the_console_itself_may_be_the_origin() {
        let mut hosts = AllowedHosts::default();
        hosts.add("console.example.com".to_owned());
        for (host, origin, accepted) in [
            ("localhost:9000", "http://localhost:9000", true),
            ("console.example.com", "https://console.example.com", true),
            ("console.example.com:443", "https://console.example.com", true),
            ("localhost:80", "http://localhost", true),
            ("localhost:9000", "http://localhost:9001", false),
            ("localhost:9000", "http://127.0.0.1:9000", false),
            ("localhost:9000", "https://console.example.com", false),
            ("localhost:9000", "http://evil.example", false),
            ("localhost", "null", false),
            ("localhost", "file://localhost", false),
        ] {
            let expected = if accepted { Ok(()) } else { Err(403) };
            let headers = [("host", host), ("origin", origin)];
            assert_eq!(checked(&hosts, Method::POST, &headers), expected, "{host} {origin}");
        }
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let hosts = AllowedHosts::default();
        for (site, method, accepted) in [
            ("same-origin", Method::POST, true),
            ("none", Method::POST, true),
            ("same-site", Method::POST, false),
            ("cross-site", Method::DELETE, false),
            ("whatever", Method::PUT, false),
            // A link on another site leads here.
            ("cross-site", Method::GET, true),
        ] {
            let expected = if accepted { Ok(()) } else { Err(403) };
            let headers = [("host", "localhost"), ("sec-fetch-site", site)];
            assert_eq!(checked(&hosts, method, &headers), expected, "{site}");
        }
    }
}
