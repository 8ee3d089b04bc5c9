//! Errors and findings, and lists of names.

use std::collections::BTreeSet;

use serde_json::json;

use super::{document, fits, variants};
use crate::error::{Finding, FindingCode};
use crate::{Error, ErrorKind};

#[test]
fn every_kind_of_error_and_finding_code_is_in_the_schema() {
    let schema = document();
    let listed =
        |name: &str| -> BTreeSet<String> { serde_json::from_value(schema["$defs"][name]["enum"].clone()).unwrap() };
    let codes = FindingCode::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(listed("finding_code"), codes);
    let kinds = variants(include_str!("../../error/mod.rs"), "ErrorKind");
    assert_eq!(listed("error_kind"), kinds);
    assert_eq!(
        serde_json::to_value(ErrorKind::InvalidConfiguration).unwrap(),
        "invalid_configuration"
    );
    for code in FindingCode::ALL {
        fits("finding", &Finding::warning(*code, "what", "how"));
    }
    assert_eq!(
        listed("phase"),
        variants(include_str!("../../report/phase.rs"), "Phase")
    );
    assert_eq!(
        listed("collection_kind"),
        variants(include_str!("../../model/collection.rs"), "CollectionKind")
    );
}

#[test]
fn an_error_has_its_findings_and_the_texts_of_its_causes() {
    let finding = Finding::blocker(FindingCode::ExistingData, "it exists", "drop it").about("shop.orders");
    let error = Error::refused("start the migration", vec![finding])
        .with_context("namespace", "shop.orders")
        .with_source(std::io::Error::other("a cause"));
    let expected = json!({
        "kind": "refused",
        "operation": "start the migration",
        "message": "it exists (drop it)",
        "context": { "namespace": "shop.orders" },
        "retryable": false,
        "causes": ["a cause"],
        "findings": [{
            "severity": "blocker", "code": "existing_data", "message": "it exists", "fix": "drop it",
            "affected": ["shop.orders"], "affected_count": 1,
        }],
    });
    assert_eq!(fits("error", &error), expected);
}
