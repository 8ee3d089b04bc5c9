//! The next value in the server's sort order.

use bson::oid::ObjectId;

use crate::order::{Key, RawValue, element_type};

/// The numbers that an index can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    All,
    /// Indexes from before 3.4 hold no Decimal128 and cannot be searched for one. The servers of that time do not know the type at all.
    WithoutDecimal,
}

/// Returns the least `_id` that is greater than `key`, or one so little greater that no value that can be stored lies between. Returns
/// `None` for MaxKey.
pub(super) fn successor(key: &Key, numbers: Numbers) -> Option<Key> {
    let value = key.as_raw();
    let bytes = value.bytes();
    match value.element_type() {
        element_type::MIN_KEY => of(element_type::UNDEFINED, &[]),
        element_type::UNDEFINED => of(element_type::NULL, &[]),
        element_type::NULL => of(element_type::DOUBLE, &f64::NAN.to_le_bytes()),
        element_type::DOUBLE if numbers == Numbers::WithoutDecimal => {
            let double = f64::from_le_bytes(bytes.try_into().ok()?);
            without_decimal(key, double, above(double))
        }
        element_type::INT32 if numbers == Numbers::WithoutDecimal => {
            let integer = i64::from(i32::from_le_bytes(bytes.try_into().ok()?));
            without_decimal(key, integer as f64, integer.checked_add(1))
        }
        element_type::INT64 if numbers == Numbers::WithoutDecimal => {
            let integer = i64::from_le_bytes(bytes.try_into().ok()?);
            without_decimal(key, integer as f64, integer.checked_add(1))
        }
        element_type::DOUBLE => number(key, |bytes| Number::of_double(f64::from_le_bytes(bytes))),
        element_type::INT32 => number(key, |bytes| Number::of_integer(i32::from_le_bytes(bytes).into())),
        element_type::INT64 => number(key, |bytes| Number::of_integer(i64::from_le_bytes(bytes))),
        element_type::DECIMAL128 => number(key, |bytes| Number::of_decimal(u128::from_le_bytes(bytes))),
        element_type::STRING | element_type::SYMBOL => lengthened(element_type::STRING, bytes),
        // A document or array with one more field is greater. It is the least such value if the added field is the least.
        element_type::DOCUMENT | element_type::ARRAY => of(value.element_type(), &extended(bytes)),
        element_type::BINARY => binary(bytes),
        element_type::OBJECT_ID => match incremented(bytes) {
            Some(next) => of(element_type::OBJECT_ID, &next),
            None => of(element_type::BOOLEAN, &[0]),
        },
        element_type::BOOLEAN => match bytes.first() {
            Some(0) => of(element_type::BOOLEAN, &[1]),
            _ => of(element_type::DATE, &i64::MIN.to_le_bytes()),
        },
        element_type::DATE => match i64::from_le_bytes(bytes.try_into().ok()?).checked_add(1) {
            Some(next) => of(element_type::DATE, &next.to_le_bytes()),
            None => of(element_type::TIMESTAMP, &[0; 8]),
        },
        element_type::TIMESTAMP => match u64::from_le_bytes(bytes.try_into().ok()?).checked_add(1) {
            Some(next) => of(element_type::TIMESTAMP, &next.to_le_bytes()),
            None => of(element_type::REGEX, &[0, 0]),
        },
        // Pattern and options each end with a NUL and contain none. The next value has a 1 at the end of the options.
        element_type::REGEX => of(
            element_type::REGEX,
            &[bytes.get(..bytes.len().saturating_sub(1))?, &[1, 0]].concat(),
        ),
        element_type::DB_POINTER => {
            let (namespace, id) =
                bytes.split_at_checked(bytes.len().checked_sub(ObjectId::default().bytes().len())?)?;
            match incremented(id) {
                Some(next) => of(element_type::DB_POINTER, &[namespace, &next].concat()),
                // No driver generates the greatest id. The namespaces that follow it have the same length.
                None => of(element_type::CODE, &[1, 0, 0, 0, 0]),
            }
        }
        element_type::CODE => lengthened(element_type::CODE, bytes),
        element_type::CODE_WITH_SCOPE => {
            let code_length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
            let (code, scope) = bytes.get(4..)?.split_at_checked(4 + code_length)?;
            let scope = extended(scope);
            let length = (4 + code.len() + scope.len()) as u32;
            of(
                element_type::CODE_WITH_SCOPE,
                &[&length.to_le_bytes(), code, &scope].concat(),
            )
        }
        _ => None,
    }
}

fn of(element_type: u8, bytes: &[u8]) -> Option<Key> {
    RawValue::from_parts(element_type, bytes).map(Key::from)
}

/// Appends a NUL to the string, before the NUL that ends every string.
fn lengthened(element_type: u8, bytes: &[u8]) -> Option<Key> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) + 1;
    of(element_type, &[&length.to_le_bytes(), bytes.get(4..)?, &[0]].concat())
}

/// Appends the least possible field to the document: MinKey under an empty name.
fn extended(bytes: &[u8]) -> Vec<u8> {
    let fields = bytes.get(4..bytes.len().saturating_sub(1)).unwrap_or_default();
    let length = (bytes.len() + 2) as u32;
    [&length.to_le_bytes(), fields, &[element_type::MIN_KEY, 0, 0]].concat()
}

/// Returns the next bytes of the same length, or `None` after the last.
fn incremented(bytes: &[u8]) -> Option<Vec<u8>> {
    let at = bytes.iter().rposition(|byte| *byte != 0xff)?;
    let mut next = bytes.to_vec();
    for (index, byte) in next.iter_mut().enumerate().skip(at) {
        *byte = if index == at { byte.wrapping_add(1) } else { 0 };
    }
    Some(next)
}

/// Binary values sort by length, then subtype, then bytes. The second length of the old subtype 2 counts as part of the bytes.
fn binary(bytes: &[u8]) -> Option<Key> {
    let (head, data) = bytes.split_at_checked(5)?;
    if let Some(next) = incremented(data) {
        return of(element_type::BINARY, &[head, &next].concat());
    }
    let (subtype, length) = match head.last()?.checked_add(1) {
        Some(subtype) => (subtype, data.len()),
        None => (0, data.len() + 1),
    };
    of(
        element_type::BINARY,
        &[(length as u32).to_le_bytes().as_slice(), &[subtype], &vec![0; length]].concat(),
    )
}

/// Returns the least double or integer above a number, whose nearest double and next integer are given.
fn without_decimal(key: &Key, nearest: f64, integer: Option<i64>) -> Option<Key> {
    // In the index, NaN is the least number.
    let next = if nearest.is_nan() {
        f64::NEG_INFINITY
    } else {
        nearest.next_up()
    };
    let doubles = [nearest, next].map(|double| of(element_type::DOUBLE, &double.to_le_bytes()));
    let integer = integer.and_then(|integer| of(element_type::INT64, &integer.to_le_bytes()));
    let above = doubles.into_iter().chain([integer]).flatten().filter(|next| next > key);
    // Strings follow the numbers.
    above.min().or_else(|| of(element_type::STRING, &[1, 0, 0, 0, 0]))
}

/// Returns the least integer above a double.
fn above(double: f64) -> Option<i64> {
    const LEAST: f64 = i64::MIN as f64;
    if double.is_nan() || double >= -LEAST {
        None
    } else if double < LEAST {
        Some(i64::MIN)
    } else {
        (double.floor() as i64).checked_add(1)
    }
}

fn number<const N: usize>(key: &Key, read: impl Fn([u8; N]) -> Number) -> Option<Key> {
    let number = read(key.as_raw().bytes().try_into().ok()?);
    let Some(next) = number.successor() else {
        // Strings follow the numbers.
        return of(element_type::STRING, &[1, 0, 0, 0, 0]);
    };
    let next = of(element_type::DECIMAL128, &next.to_bits().to_le_bytes())?;
    // Most doubles are not a Decimal128 but lie between two of them. Only one double can lie between the number and the next Decimal128:
    // the double nearest to the number.
    let nearest = of(element_type::DOUBLE, &number.nearest_double().to_le_bytes())?;
    Some(if *key < nearest && nearest < next {
        nearest
    } else {
        next
    })
}

/// The value of any number, in the form of a Decimal128.
#[derive(Clone, Copy)]
enum Number {
    NaN,
    Infinite {
        negative: bool,
    },
    /// `coefficient * 10^exponent`, and slightly further from zero unless it is `exact`.
    Finite {
        negative: bool,
        coefficient: u128,
        exponent: i32,
        exact: bool,
    },
}

/// One more than the greatest coefficient of a Decimal128.
const COEFFICIENTS: u128 = 10_u128.pow(34);
const LEAST_EXPONENT: i32 = -6176;
const GREATEST_EXPONENT: i32 = 6111;

impl Number {
    fn of_integer(integer: i64) -> Self {
        Self::Finite {
            negative: integer < 0,
            coefficient: integer.unsigned_abs().into(),
            exponent: 0,
            exact: true,
        }
    }

    fn of_double(double: f64) -> Self {
        if double.is_nan() {
            return Self::NaN;
        }
        let negative = double.is_sign_negative();
        if double.is_infinite() {
            return Self::Infinite { negative };
        }
        // No double has more than 767 significant digits, so this is its exact value.
        let text = format!("{:.766e}", double.abs());
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let mut digits = digits.bytes().filter(u8::is_ascii_digit);
        let coefficient = digits
            .by_ref()
            .take(34)
            .fold(0, |value, digit| value * 10 + u128::from(digit - b'0'));
        Self::Finite {
            negative,
            coefficient,
            exponent: exponent.parse().unwrap_or(0) - 33,
            exact: digits.all(|digit| digit == b'0'),
        }
    }

    /// Reads the binary integer encoding of IEEE 754. In this encoding, a coefficient of more than 34 digits means zero.
    fn of_decimal(bits: u128) -> Self {
        let negative = bits >> 127 == 1;
        let (coefficient, exponent) = match bits >> 122 & 0b11111 {
            0b11111 => return Self::NaN,
            0b11110 => return Self::Infinite { negative },
            leading if leading >> 3 == 0b11 => (0, 0),
            _ => (bits & ((1 << 113) - 1), (bits >> 113 & 0x3fff) as i32 + LEAST_EXPONENT),
        };
        Self::Finite {
            negative,
            coefficient: if coefficient < COEFFICIENTS { coefficient } else { 0 },
            exponent,
            exact: true,
        }
    }

    /// Returns the least Decimal128 that is greater. Decimal128 values are denser than doubles and integers over their whole range.
    fn successor(self) -> Option<Self> {
        let finite = |negative, coefficient, exponent| {
            Some(Self::Finite {
                negative,
                coefficient,
                exponent,
                exact: true,
            })
        };
        match self {
            Self::NaN => Some(Self::Infinite { negative: true }),
            Self::Infinite { negative: true } => finite(true, COEFFICIENTS - 1, GREATEST_EXPONENT),
            Self::Infinite { negative: false } => None,
            Self::Finite { coefficient: 0, .. } => finite(false, 1, LEAST_EXPONENT),
            Self::Finite {
                negative,
                mut coefficient,
                mut exponent,
                exact,
            } => {
                while coefficient < COEFFICIENTS / 10 && exponent > LEAST_EXPONENT {
                    coefficient *= 10;
                    exponent -= 1;
                }
                if negative && !exact {
                    finite(true, coefficient, exponent)
                } else if negative && coefficient == COEFFICIENTS / 10 && exponent > LEAST_EXPONENT {
                    finite(true, COEFFICIENTS - 1, exponent - 1)
                } else if negative {
                    finite(true, coefficient - 1, exponent)
                } else if coefficient + 1 < COEFFICIENTS {
                    finite(false, coefficient + 1, exponent)
                } else if exponent < GREATEST_EXPONENT {
                    finite(false, COEFFICIENTS / 10, exponent + 1)
                } else {
                    Some(Self::Infinite { negative: false })
                }
            }
        }
    }

    fn nearest_double(self) -> f64 {
        match self {
            Self::NaN => f64::NAN,
            Self::Infinite { negative: true } => f64::NEG_INFINITY,
            Self::Infinite { negative: false } => f64::INFINITY,
            Self::Finite {
                negative,
                coefficient,
                exponent,
                ..
            } => {
                let sign = if negative { "-" } else { "" };
                format!("{sign}{coefficient}e{exponent}").parse().unwrap_or(f64::NAN)
            }
        }
    }

    fn to_bits(self) -> u128 {
        match self {
            Self::NaN => 0b11111 << 122,
            Self::Infinite { negative } => u128::from(negative) << 127 | 0b11110 << 122,
            Self::Finite {
                negative,
                coefficient,
                exponent,
                ..
            } => {
                let biased = (exponent - LEAST_EXPONENT).unsigned_abs();
                u128::from(negative) << 127 | u128::from(biased) << 113 | coefficient
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::raw::RawBson;
    use bson::{Bson, Decimal128, doc};

    fn corpus() -> Vec<Key> {
        let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
        let binary = |subtype: u8, bytes: &[u8]| {
            Bson::Binary(bson::Binary {
                subtype: subtype.into(),
                bytes: bytes.to_vec(),
            })
        };
        let mut values = vec![
            Bson::MinKey,
            Bson::Null,
            Bson::Undefined,
            Bson::MaxKey,
            Bson::Boolean(false),
            Bson::Boolean(true),
            Bson::String(String::new()),
            Bson::String("\0".into()),
            Bson::String("a".into()),
            Bson::String("a\0".into()),
            Bson::String("a\u{1}".into()),
            Bson::Symbol("a".into()),
            Bson::Symbol("b".into()),
            Bson::Document(doc! {}),
            Bson::Document(doc! { "": Bson::MinKey }),
            Bson::Document(doc! { "a": 1 }),
            Bson::Document(doc! { "a": 1, "": Bson::MinKey }),
            Bson::Document(doc! { "a": 1, "": Bson::Null }),
            Bson::Document(doc! { "a": "x" }),
            Bson::Array(vec![]),
            Bson::Array(vec![Bson::MinKey]),
            Bson::Array(vec![1.into()]),
            binary(0, &[]),
            binary(0, &[1]),
            binary(0, &[255]),
            binary(1, &[255]),
            binary(2, &[0]),
            binary(2, &[255]),
            binary(3, &[0]),
            binary(255, &[255]),
            binary(0, &[0, 0]),
            binary(4, &[7; 16]),
            binary(4, &[255; 16]),
            Bson::ObjectId(ObjectId::from_bytes([0; 12])),
            Bson::ObjectId(ObjectId::from_bytes([255; 12])),
            Bson::ObjectId(ObjectId::from_bytes([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 255])),
            Bson::ObjectId(ObjectId::from_bytes([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 0])),
            Bson::DateTime(bson::DateTime::MIN),
            Bson::DateTime(bson::DateTime::MAX),
            Bson::DateTime(bson::DateTime::from_millis(-1)),
            Bson::DateTime(bson::DateTime::from_millis(0)),
            Bson::Timestamp(bson::Timestamp { time: 0, increment: 0 }),
            Bson::Timestamp(bson::Timestamp {
                time: 1,
                increment: u32::MAX,
            }),
            Bson::Timestamp(bson::Timestamp { time: 2, increment: 0 }),
            Bson::Timestamp(bson::Timestamp {
                time: u32::MAX,
                increment: u32::MAX,
            }),
            Bson::JavaScriptCode(String::new()),
            Bson::JavaScriptCode("x".into()),
            Bson::JavaScriptCode("x\0".into()),
            Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code: "x".into(),
                scope: doc! {},
            }),
            Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code: "x".into(),
                scope: doc! { "a": 1 },
            }),
        ];
        for integer in [
            0,
            1,
            2,
            -1,
            -2,
            1 << 53,
            (1 << 53) + 1,
            i64::MAX,
            i64::MAX - 1,
            i64::MIN,
            i64::MIN + 1,
        ] {
            values.extend([Bson::Int64(integer), Bson::Double(integer as f64)]);
        }
        for double in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            -5e-324,
            -0.0,
            0.1,
            1e300,
            0.1 + f64::EPSILON,
            1e22,
            1e23,
            1.5,
        ] {
            values.extend([double, -double, double.next_up(), double.next_down()].map(Bson::Double));
        }
        for text in [
            "0.1",
            "-0.1",
            "0.1000000000000000055511151231257827",
            "0.1000000000000000055511151231257828",
            "-0.1000000000000000055511151231257827",
            "-0.1000000000000000055511151231257828",
            "1.000000000000000000000000000000001",
            "0.9999999999999999999999999999999999",
            "1.0",
            "1E-6176",
            "-1E-6176",
            "9.999999999999999999999999999999999E6144",
            "-9.999999999999999999999999999999999E6144",
            "Infinity",
            "-Infinity",
            "NaN",
            "2E-6176",
            "0E100",
            "-1.000000000000000000000000000000000",
        ] {
            values.push(decimal(text));
        }
        values
            .into_iter()
            .map(|value| Key::from(RawBson::try_from(value).unwrap().as_raw_bson_ref()))
            .collect()
    }

    #[test]
    fn nothing_lies_between_a_value_and_its_successor() {
        for numbers in [Numbers::All, Numbers::WithoutDecimal] {
            let is_held =
                |key: &Key| numbers == Numbers::All || key.as_raw().element_type() != element_type::DECIMAL128;
            let mut keys: Vec<Key> = corpus().into_iter().filter(is_held).collect();
            // Successors of successors are as good test values as any.
            let more: Vec<Key> = keys.iter().filter_map(|key| successor(key, numbers)).collect();
            keys.extend(more);
            for key in &keys {
                let Some(next) = successor(key, numbers) else {
                    assert_eq!(*key, Key::MAX);
                    continue;
                };
                assert!(is_held(&next), "{next:?}");
                assert!(next > *key, "{next:?} follows {key:?}");
                for other in &keys {
                    assert!(other <= key || other >= &next, "{other:?} between {key:?} and {next:?}");
                }
            }
        }
    }
}
