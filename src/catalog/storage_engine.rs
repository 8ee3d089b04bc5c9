//! Storage engine settings in options and index specifications.

use bson::raw::{CString, RawBson, RawBsonRef, RawDocumentBuf, cstr};

use super::normal::{Fields, Normal, fields};

/// The storage engine of all supported servers.
pub(super) const ENGINE: &str = "wiredTiger";

/// Settings that the server itself adds to the buckets of a time-series collection. They are not compared: some releases of a series list
/// them and others do not, and the sink sets the first one to true because it cannot know the history of the buckets.
const BUCKET_NOTES: &[&str] = &[
    "timeseriesBucketsMayHaveMixedSchemaData",
    "timeseriesBucketingParametersHaveChanged",
];

/// The settings that have an effect, or `None` if there are none.
pub(super) fn normal(value: RawBsonRef<'_>) -> Option<Normal> {
    let Some(engines) = value.as_document() else {
        return Some(value.into());
    };
    let settings = engines.get_document(ENGINE).ok()?;
    let mut normal = Fields::new();
    for (name, value) in fields(settings) {
        match (name, value) {
            ("configString", RawBsonRef::String(text)) => {
                let items = items(text);
                if !items.is_empty() {
                    normal.insert(name.to_owned(), Normal::Fields(items));
                }
            }
            _ => {
                normal.insert(name.to_owned(), value.into());
            }
        }
    }
    (!normal.is_empty()).then_some(Normal::Fields(normal))
}

/// The names of engines that targets do not have.
pub(super) fn other_engines(value: RawBsonRef<'_>) -> Vec<&str> {
    let engines = value.as_document().into_iter().flat_map(fields);
    engines
        .map(|(engine, _)| engine)
        .filter(|engine| *engine != ENGINE)
        .collect()
}

/// The settings to send to a target, or `None` if there are none.
pub(super) fn to_send(value: RawBsonRef<'_>) -> Option<RawBson> {
    let Some(engines) = value.as_document() else {
        return Some(RawBson::from(value));
    };
    let settings = engines.get(ENGINE).ok().flatten()?;
    let mut kept = RawDocumentBuf::new();
    kept.append(cstr!("wiredTiger"), settings);
    Some(RawBson::Document(kept))
}

/// The `indexOptionDefaults` to send to a target, or `None` if there are none.
pub(super) fn defaults_to_send(value: RawBsonRef<'_>) -> Option<RawBson> {
    let Some(defaults) = value.as_document() else {
        return Some(RawBson::from(value));
    };
    let mut kept = RawDocumentBuf::new();
    for (name, value) in fields(defaults) {
        let value = match name {
            "storageEngine" => to_send(value),
            _ => Some(RawBson::from(value)),
        };
        if let (Ok(name), Some(value)) = (CString::try_from(name), value) {
            kept.append(name, value);
        }
    }
    (!kept.is_empty()).then_some(RawBson::Document(kept))
}

/// Parses a configuration string such as `a=1,b=(c=2,d)`. Leaves out the settings that servers add themselves, and groups that are empty
/// without them.
fn items(text: &str) -> Fields {
    let mut items = Fields::new();
    for item in split(text) {
        let (name, value) = item.split_once('=').unwrap_or((item, ""));
        let (name, value) = (name.trim(), value.trim());
        if BUCKET_NOTES.contains(&name) {
            continue;
        }
        let nested = value.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let normal = match nested.map(self::items) {
            Some(nested) if nested.is_empty() => continue,
            Some(nested) => Normal::Fields(nested),
            None => value.into(),
        };
        items.insert(name.to_owned(), normal);
    }
    items
}

/// Splits at the commas outside of brackets.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |character| {
        match character {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn configured(text: &str) -> Option<Normal> {
        let options = rawdoc! { "storageEngine": { "wiredTiger": { "configString": text } } };
        normal(options.get("storageEngine").unwrap().unwrap())
    }

    #[test]
    fn buckets_notes_are_no_settings() {
        for notes in [
            "",
            "app_metadata=()",
            "app_metadata=(timeseriesBucketsMayHaveMixedSchemaData=true)",
            "app_metadata=(timeseriesBucketsMayHaveMixedSchemaData=false)",
            "app_metadata=(timeseriesBucketingParametersHaveChanged=true)",
            "app_metadata=(timeseriesBucketingParametersHaveChanged=false)",
            "app_metadata=(timeseriesBucketsMayHaveMixedSchemaData=true,timeseriesBucketingParametersHaveChanged=false)",
            "app_metadata=(timeseriesBucketingParametersHaveChanged=true, timeseriesBucketsMayHaveMixedSchemaData=false)",
        ] {
            assert_eq!(configured(notes), None, "{notes}");
            let more = format!("block_compressor=snappy,{notes}");
            assert_eq!(configured(&more), configured("block_compressor=snappy"), "{more}");
        }
        let other = "app_metadata=(formatVersion=3,timeseriesBucketsMayHaveMixedSchemaData=true)";
        assert_eq!(configured(other), configured("app_metadata=(formatVersion=3)"));
        assert_ne!(configured(other), None);
    }

    #[test]
    fn settings_come_in_any_order() {
        let one = "block_compressor=zlib,encryption=(name=x,keyid=y)";
        assert_eq!(
            configured(one),
            configured("encryption=(keyid=y,name=x), block_compressor=zlib")
        );
        assert_ne!(
            configured(one),
            configured("encryption=(keyid=y,name=x),block_compressor=snappy")
        );
        assert_ne!(configured(one), configured("block_compressor=zlib"));
    }

    #[test]
    fn only_the_engine_of_all_targets_is_sent() {
        let options = rawdoc! { "x": { "mmapv1": {}, "wiredTiger": { "configString": "a=1" } }, "y": { "inMemory": {} }, "z": {} };
        let of = |name: &str| options.get(name).unwrap().unwrap();
        let kept = RawBson::Document(rawdoc! { "wiredTiger": { "configString": "a=1" } });
        assert_eq!(["x", "y", "z"].map(|name| to_send(of(name))), [Some(kept), None, None]);
        assert_eq!(other_engines(of("x")), ["mmapv1"]);
    }
}
