//! Formats values as canonical extended JSON, for people to read.

use std::fmt::{Formatter, Result, Write};

use bson::Decimal128;
use bson::spec::ElementType;

use super::canonical::{Canonical, MAX_DEPTH};
use super::raw_value::{Element, Elements, RawValue};

/// Never fails because of the value. Bytes that are not UTF-8 become the replacement character. Malformed bytes become `{"$malformed":
/// <hexadecimal>}`.
pub(super) fn write_value(formatter: &mut Formatter<'_>, value: RawValue<'_>) -> Result {
    write_nested(formatter, value, 0)
}

fn write_nested(out: &mut Formatter<'_>, value: RawValue<'_>, depth: usize) -> Result {
    if depth >= MAX_DEPTH {
        return out.write_str("\"...\"");
    }
    match value.canonical() {
        Canonical::MinKey => out.write_str(r#"{"$minKey":1}"#),
        Canonical::Undefined => out.write_str(r#"{"$undefined":true}"#),
        Canonical::Null => out.write_str("null"),
        Canonical::Number(_) => write_number(out, value),
        Canonical::Text(text) if value.element_type() == ElementType::Symbol as u8 => {
            out.write_str(r#"{"$symbol":"#)?;
            write_string(out, text)?;
            out.write_char('}')
        }
        Canonical::Text(text) => write_string(out, text),
        Canonical::Document(document) => write_document(out, document, depth),
        Canonical::Array(array) => write_elements(out, array, ('[', ']'), depth),
        Canonical::Binary { subtype, content, .. } => {
            out.write_str(r#"{"$binary":{"base64":""#)?;
            write_base64(out, content)?;
            write!(out, r#"","subType":"{subtype:02x}"}}}}"#)
        }
        Canonical::ObjectId(id) => write_object_id(out, &id),
        Canonical::Boolean(boolean) => write!(out, "{boolean}"),
        Canonical::DateTime(milliseconds) => write!(out, r#"{{"$date":{{"$numberLong":"{milliseconds}"}}}}"#),
        Canonical::Timestamp(timestamp) => {
            write!(
                out,
                r#"{{"$timestamp":{{"t":{},"i":{}}}}}"#,
                timestamp >> 32,
                timestamp & 0xffff_ffff
            )
        }
        Canonical::RegularExpression { pattern, options } => {
            out.write_str(r#"{"$regularExpression":{"pattern":"#)?;
            write_string(out, pattern)?;
            out.write_str(r#","options":"#)?;
            write_string(out, options)?;
            out.write_str("}}")
        }
        Canonical::DbPointer { namespace, id } => {
            out.write_str(r#"{"$dbPointer":{"$ref":"#)?;
            write_string(out, &namespace)?;
            out.write_str(r#","$id":"#)?;
            write_object_id(out, &id)?;
            out.write_str("}}")
        }
        Canonical::Code(code) => {
            out.write_str(r#"{"$code":"#)?;
            write_string(out, code)?;
            out.write_char('}')
        }
        Canonical::CodeWithScope { code, scope } => {
            out.write_str(r#"{"$code":"#)?;
            write_string(out, code)?;
            out.write_str(r#","$scope":"#)?;
            write_document(out, scope, depth)?;
            out.write_char('}')
        }
        Canonical::MaxKey => out.write_str(r#"{"$maxKey":1}"#),
        Canonical::Malformed(bytes) => write_malformed(out, bytes),
    }
}

/// The canonical form does not know which of the four number types a value has, so this reads the bytes.
fn write_number(out: &mut Formatter<'_>, value: RawValue<'_>) -> Result {
    let bytes = value.bytes();
    if let Some(bytes) = bytes.first_chunk::<16>() {
        write!(out, r#"{{"$numberDecimal":"{}"}}"#, Decimal128::from_bytes(*bytes))
    } else if let Some(bytes) = bytes.first_chunk::<8>() {
        if value.element_type() == ElementType::Int64 as u8 {
            return write!(out, r#"{{"$numberLong":"{}"}}"#, i64::from_le_bytes(*bytes));
        }
        match f64::from_le_bytes(*bytes) {
            f64::INFINITY => out.write_str(r#"{"$numberDouble":"Infinity"}"#),
            f64::NEG_INFINITY => out.write_str(r#"{"$numberDouble":"-Infinity"}"#),
            double => write!(out, r#"{{"$numberDouble":"{double:?}"}}"#),
        }
    } else {
        let integer = bytes.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
        write!(out, r#"{{"$numberInt":"{integer}"}}"#)
    }
}

fn write_document(out: &mut Formatter<'_>, document: &[u8], depth: usize) -> Result {
    write_elements(out, document, ('{', '}'), depth)
}

fn write_elements(out: &mut Formatter<'_>, document: &[u8], (open, close): (char, char), depth: usize) -> Result {
    out.write_char(open)?;
    for (index, element) in Elements::of(document).enumerate() {
        if index > 0 {
            out.write_char(',')?;
        }
        match element {
            Element::Field { name, value } => {
                if open == '{' {
                    write_string(out, name)?;
                    out.write_char(':')?;
                }
                write_nested(out, value, depth + 1)?;
            }
            Element::Malformed(bytes) => {
                if open == '{' {
                    out.write_str("\"\":")?;
                }
                write_malformed(out, bytes)?;
            }
        }
    }
    out.write_char(close)
}

fn write_string(out: &mut Formatter<'_>, bytes: &[u8]) -> Result {
    out.write_char('"')?;
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '"' | '\\' => write!(out, "\\{character}")?,
            '\n' => out.write_str("\\n")?,
            control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

fn write_object_id(out: &mut Formatter<'_>, id: &[u8]) -> Result {
    out.write_str(r#"{"$oid":""#)?;
    write_hexadecimal(out, id)?;
    out.write_str("\"}")
}

fn write_malformed(out: &mut Formatter<'_>, bytes: &[u8]) -> Result {
    out.write_str(r#"{"$malformed":""#)?;
    write_hexadecimal(out, bytes)?;
    out.write_str("\"}")
}

fn write_hexadecimal(out: &mut Formatter<'_>, bytes: &[u8]) -> Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

fn write_base64(out: &mut Formatter<'_>, bytes: &[u8]) -> Result {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |index| group.get(index).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            match place > group.len() {
                true => out.write_char('=')?,
                false => out.write_char(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]))?,
            }
        }
    }
    Ok(())
}
