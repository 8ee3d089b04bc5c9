//! Checks JSON against a JSON Schema: the few keywords that the library's own schema uses, and stricter than the standard in that an
//! object may have no properties that its schema does not name.

use serde_json::Value;

/// Keywords that say nothing about a value.
const ANNOTATIONS: &[&str] = &["$schema", "$defs", "title", "description", "format"];

/// Checks a value against the whole schema, or against one of its `$defs`.
///
/// # Errors
/// What does not fit, and where. A keyword that is not known here is an error as well.
pub fn check(schema: &Value, definition: Option<&str>, value: &Value) -> Result<(), String> {
    let part = match definition {
        Some(name) => resolve(schema, &format!("#/$defs/{name}"))?,
        None => schema,
    };
    Checker { schema }.check(part, value, "", &[])
}

fn resolve<'a>(schema: &'a Value, reference: &str) -> Result<&'a Value, String> {
    let pointer = reference.strip_prefix('#').unwrap_or(reference);
    schema
        .pointer(pointer)
        .ok_or_else(|| format!("the schema has no {reference}"))
}

struct Checker<'a> {
    schema: &'a Value,
}

impl Checker<'_> {
    /// `named` are the properties that a schema around this one names for the same object.
    fn check(&self, schema: &Value, value: &Value, path: &str, named: &[&str]) -> Result<(), String> {
        let fail = |what: String| Err(format!("{}: {what}: {value}", if path.is_empty() { "/" } else { path }));
        let Some(keywords) = schema.as_object() else {
            return fail("the schema is no object".to_owned());
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        let names: Vec<&str> = properties
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        let here: Vec<&str> = named.iter().copied().chain(names).collect();
        for (keyword, wanted) in keywords {
            match keyword.as_str() {
                "$ref" => {
                    let part = resolve(self.schema, wanted.as_str().unwrap_or_default())?;
                    self.check(part, value, path, &here)?;
                }
                "type" => {
                    let types: Vec<&str> = match wanted {
                        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
                        one => one.as_str().into_iter().collect(),
                    };
                    if !types.iter().any(|one| is_of(value, one)) {
                        return fail(format!("it is not of type {wanted}"));
                    }
                }
                "const" if value != wanted => return fail(format!("it is not {wanted}")),
                "enum" if !wanted.as_array().is_some_and(|all| all.contains(value)) => {
                    return fail(format!("it is none of {wanted}"));
                }
                "minimum" if value.as_f64() < wanted.as_f64() && value.is_number() => {
                    return fail(format!("it is below {wanted}"));
                }
                "required" => {
                    for name in wanted.as_array().into_iter().flatten().filter_map(Value::as_str) {
                        if value.get(name).is_none() {
                            return fail(format!("it lacks `{name}`"));
                        }
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(wanted, item, &format!("{path}/{index}"), &[])?;
                    }
                }
                "additionalProperties" => {
                    for (name, field) in value.as_object().into_iter().flatten() {
                        self.check(wanted, field, &format!("{path}/{name}"), &[])?;
                    }
                }
                "properties" => {
                    for (name, field) in value.as_object().into_iter().flatten() {
                        match wanted.get(name) {
                            Some(part) => self.check(part, field, &format!("{path}/{name}"), &[])?,
                            None if here.contains(&name.as_str()) || keywords.contains_key("oneOf") => {}
                            None => return fail(format!("`{name}` is not in the schema")),
                        }
                    }
                }
                "oneOf" => self.check_one_of(wanted, value, path, &here)?,
                "const" | "enum" | "minimum" => {}
                other if ANNOTATIONS.contains(&other) => {}
                other => return fail(format!("the keyword `{other}` cannot be checked")),
            }
        }
        Ok(())
    }

    fn check_one_of(&self, parts: &Value, value: &Value, path: &str, named: &[&str]) -> Result<(), String> {
        let mut failures = Vec::new();
        let mut fitting = 0;
        let is_meant = |part: &Value| {
            let part = match part.get("$ref").and_then(Value::as_str) {
                Some(reference) => resolve(self.schema, reference).ok(),
                None => Some(part),
            };
            let wanted = part.and_then(|part| part.pointer("/properties/type/const"));
            wanted.is_some() && wanted == value.get("type")
        };
        for part in parts.as_array().into_iter().flatten() {
            match self.check(part, value, path, named) {
                Ok(()) => fitting += 1,
                Err(failure) => failures.push((is_meant(part), failure)),
            }
        }
        // The failure of the part that is meant is not that of its type.
        let told = failures.iter().find(|(is_meant, _)| *is_meant).or(failures.first());
        match fitting {
            1 => Ok(()),
            0 => Err(told.map(|(_, failure)| failure.clone()).unwrap_or_default()),
            _ => Err(format!("{path}: {fitting} parts of the schema fit: {value}")),
        }
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_found() {
        let schema = json!({
            "oneOf": [{ "$ref": "#/$defs/point" }, { "$ref": "#/$defs/name" }],
            "$defs": {
                "point": {
                    "type": "object", "required": ["type", "x"],
                    "properties": { "type": { "const": "point" }, "x": { "type": ["integer", "null"], "minimum": 0 } },
                },
                "name": {
                    "type": "object", "required": ["type", "names"],
                    "properties": { "type": { "const": "name" }, "names": { "type": "array", "items": { "enum": ["a"] } } },
                },
            },
        });
        for fitting in [
            json!({ "type": "point", "x": 1 }),
            json!({ "type": "point", "x": null }),
            json!({ "type": "name", "names": ["a", "a"] }),
        ] {
            assert_eq!(check(&schema, None, &fitting), Ok(()));
        }
        for (wrong, told) in [
            (json!({ "type": "point" }), "lacks `x`"),
            (json!({ "type": "point", "x": -1 }), "below 0"),
            (json!({ "type": "point", "x": 1.5 }), "not of type"),
            (json!({ "type": "point", "x": 1, "y": 1 }), "`y` is not in the schema"),
            (json!({ "type": "name", "names": ["a", "b"] }), "/names/1"),
        ] {
            let failure = check(&schema, None, &wrong).unwrap_err();
            assert!(failure.contains(told), "{told} in {failure}");
        }
        assert!(check(&json!({ "allOf": [] }), None, &json!(1)).is_err());
    }
}
