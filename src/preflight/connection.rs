//! Rule for traffic that others could read.

use std::net::IpAddr;

use super::{Context, SideFacts};
use crate::error::{Finding, FindingCode};

/// Unencrypted traffic that leaves this machine has to be accepted by the host program.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if context.settings.accept_unencrypted {
        return;
    }
    for side in context.sides() {
        let encrypted = side.inspection.connection.encrypted;
        if encrypted == Some(true) {
            continue;
        }
        let outside: Vec<String> = addresses(side).into_iter().filter(|host| !is_loopback(host)).collect();
        if outside.is_empty() {
            continue;
        }
        let (side, outside) = (side.name, outside.join(", "));
        findings.push(match encrypted {
            // Unknown: the traffic may be unencrypted.
            None => Finding::blocker(
                FindingCode::Unencrypted,
                format!("documents and passwords may go to the {side} in the clear, because its client does not tell whether it uses TLS: {outside}"),
                "connect with `ConnectOptions::uri` or `ConnectOptions::options`, which tell, or declare with \
                 `MigrationBuilder::accept_unencrypted(true)` that nobody else can listen",
            ),
            Some(_) => Finding::blocker(
                FindingCode::Unencrypted,
                format!("documents and passwords go to the {side} in the clear: {outside}"),
                "add `tls=true&tlsCAFile=FILE` to its connection string, or declare with `MigrationBuilder::accept_unencrypted(true)` that \
                 nobody else can listen",
            ),
        });
    }
}

/// Returns the addresses that the client connects to. For a set, the driver replaces the given hosts by the names that the members have for
/// each other.
fn addresses(side: &SideFacts) -> Vec<String> {
    let connection = &side.inspection.connection;
    let listed = side
        .inspection
        .hello
        .get_array("hosts")
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut all = connection.hosts.clone();
    if !connection.direct {
        all.extend(listed.iter().filter_map(|name| name.as_str().map(str::to_owned)));
    }
    all.sort();
    all.dedup();
    all
}

/// Whether the address is on this machine. Other names may resolve to it too, but the name alone does not show that.
fn is_loopback(address: &str) -> bool {
    if address.starts_with('/') || address.ends_with(".sock") {
        return true;
    }
    let host = match address.rsplit_once(':') {
        // Further colons belong to an IPv6 address without a port.
        Some((host, port)) if port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')) => host,
        _ => address,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes, findings};

    #[test]
    fn loopback_is_told_from_the_rest() {
        for (address, expected) in [
            ("127.0.0.1:27017", true),
            ("127.1.2.3:1", true),
            ("localhost:27017", true),
            ("LOCALHOST", true),
            ("[::1]:27017", true),
            ("::1", true),
            ("/tmp/mongodb-27017.sock", true),
            ("10.0.0.1:27017", false),
            ("0.0.0.0:27017", false),
            ("[2001:db8::1]:27017", false),
            ("localhost.example:27017", false),
            ("db.example", false),
        ] {
            assert_eq!(is_loopback(address), expected, "{address}");
        }
    }

    #[test]
    fn what_leaves_the_host_in_the_clear_is_to_be_accepted() {
        let mut facts = Facts::new();
        facts.source.inspection.connection.hosts = vec!["db1.example:27017".to_owned()];
        // A client built by the host does not tell whether it uses TLS.
        assert_eq!(codes(&facts, check), ["unencrypted"]);
        facts.source.inspection.connection.encrypted = Some(true);
        assert_eq!(codes(&facts, check), [""; 0]);
        facts.source.inspection.connection.encrypted = Some(false);
        assert_eq!(codes(&facts, check), ["unencrypted"]);
        facts.settings.accept_unencrypted = true;
        assert_eq!(codes(&facts, check), [""; 0]);
    }

    #[test]
    fn members_names_count_unless_one_is_connected_directly() {
        let mut facts = Facts::new();
        facts.target.inspection.connection.encrypted = Some(false);
        facts.target.inspection.connection.hosts = vec!["127.0.0.1:27017".to_owned()];
        assert_eq!(codes(&facts, check), [""; 0]);
        facts.target.inspection.hello = doc! { "hosts": ["inner.example:27017"] };
        let found = findings(&facts, check);
        assert!(found[0].message.contains("inner.example:27017"), "{found:?}");
        facts.target.inspection.connection.direct = true;
        assert_eq!(codes(&facts, check), [""; 0]);
    }
}
