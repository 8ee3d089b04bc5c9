use bson::raw::{RawDocument, RawDocumentBuf, cstr};

/// The options, with the fields of a `collMod` in place of their old values. The field `index` is skipped because it is not an option.
pub(crate) fn merge_fields(options: &RawDocument, arguments: &RawDocument) -> RawDocumentBuf {
    let mut merged = RawDocumentBuf::new();
    let arguments: Vec<_> = arguments
        .iter()
        .map_while(|field| field.ok())
        .filter(|(name, _)| *name != "index")
        .collect();
    for (name, value) in options.iter().map_while(|field| field.ok()) {
        let value = arguments
            .iter()
            .find(|(changed, _)| *changed == name)
            .map_or(value, |(_, value)| *value);
        merged.append(name, value);
    }
    for (name, value) in arguments {
        if matches!(options.get(name), Ok(None)) {
            merged.append(name, value);
        }
    }
    merged
}

/// The options of a collection after a `collMod`. Like servers, it fills in the defaults of the validation options once one of them is set.
pub(crate) fn modified_options(options: &RawDocument, arguments: &RawDocument) -> RawDocumentBuf {
    let mut modified = merge_fields(options, arguments);
    let is_set = |options: &RawDocument, name: &str| matches!(options.get(name), Ok(Some(_)));
    if ["validator", "validationLevel", "validationAction"]
        .iter()
        .any(|name| is_set(arguments, name))
    {
        for (name, default) in [
            (cstr!("validationLevel"), "strict"),
            (cstr!("validationAction"), "error"),
        ] {
            if !is_set(&modified, name.as_str()) {
                modified.append(name, default);
            }
        }
    }
    modified
}

/// Applies the field `index` of a `collMod`, if there is one. Returns `false` if that index does not exist.
pub(crate) fn modify_index(indexes: &mut [RawDocumentBuf], arguments: &RawDocument) -> bool {
    let Ok(change) = arguments.get_document("index") else {
        return true;
    };
    let found = indexes.iter_mut().find(|index| match change.get_str("name") {
        Ok(name) => index.get_str("name").is_ok_and(|known| known == name),
        Err(_) => index.get_document("key").ok() == change.get_document("keyPattern").ok(),
    });
    let Some(index) = found else {
        return false;
    };
    let mut settings = RawDocumentBuf::new();
    for (name, value) in change.iter().map_while(|field| field.ok()) {
        if name != "name" && name != "keyPattern" {
            settings.append(name, value);
        }
    }
    *index = merge_fields(index, &settings);
    true
}
