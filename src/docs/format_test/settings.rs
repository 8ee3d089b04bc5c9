//! Settings, which are read as well.

use serde::Serialize;
use serde_json::json;

use super::{fits, orders};
use crate::model::Namespace;
use crate::{
    CollectionSettings, DdlPolicy, ExistingData, IndexPolicy, LostPosition, PathPolicy, Selection, Throttle,
    Verification,
};

#[test]
fn settings_are_read_as_they_are_written() {
    fn both_ways<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: T) {
        let written = fits(name, &value);
        assert_eq!(serde_json::from_value::<T>(written).unwrap(), value);
    }
    for value in [ExistingData::Refuse, ExistingData::Clear, ExistingData::Keep] {
        both_ways("existing_data", value);
    }
    for value in [LostPosition::Resync, LostPosition::Fail] {
        both_ways("lost_position", value);
    }
    for value in [Verification::None, Verification::Digest, Verification::Continuous] {
        both_ways("verification", value);
    }
    for value in [DdlPolicy::Apply, DdlPolicy::Warn, DdlPolicy::Fail] {
        both_ways("ddl_policy", value);
    }
    for value in [PathPolicy::Upward, PathPolicy::Hosted] {
        both_ways("path_policy", value);
    }
    both_ways("throttle", Throttle::unlimited().with_copy_bytes_per_second(5));
    assert_eq!(
        serde_json::from_value::<Throttle>(json!({})).unwrap(),
        Throttle::unlimited()
    );
    serde_json::from_value::<Throttle>(json!({ "copy_bytes": 1 })).unwrap_err();
    for value in [IndexPolicy::Now, IndexPolicy::Later, IndexPolicy::Never] {
        both_ways("index_policy", value);
    }
    let settings = CollectionSettings::default().priority(2);
    both_ways("collection_settings", settings);
    both_ways(
        "collection_settings",
        settings.verification(Verification::Digest).indexes(IndexPolicy::Never),
    );
    assert_eq!(
        serde_json::from_value::<CollectionSettings>(json!({})).unwrap(),
        CollectionSettings::default()
    );
    serde_json::from_value::<CollectionSettings>(json!({ "index": "never" })).unwrap_err();

    let text = json!({ "include": ["shop.*"], "rename": [["shop.orders", "store.orders"]] });
    let selection: Selection = serde_json::from_value(text).unwrap();
    assert_eq!(selection.target(&orders()), Namespace::new("store", "orders"));
    both_ways("selection", selection);
    for (wrong, told) in [
        (json!({ "include": ["shop"] }), "use `shop.*` for a whole database"),
        (json!({ "rename": [["a.b", "c.d"], ["a.b", "c.e"]] }), "contradicts"),
        (json!({ "includes": [] }), "unknown field"),
    ] {
        let error = serde_json::from_value::<Selection>(wrong).unwrap_err().to_string();
        assert!(error.contains(told), "{told} in {error}");
    }
}
