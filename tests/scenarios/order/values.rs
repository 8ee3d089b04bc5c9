//! Random `_id` values, made of raw bytes so that they hold what the `bson` crate would refuse.

use mongoferry::order::{Key, RawValue};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Makes random values that tend to be close to one another.
pub struct Values {
    random: StdRng,
}

/// A value's type and its bytes.
#[derive(Clone, Debug)]
struct Value(u8, Vec<u8>);

impl Values {
    pub fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// A value that a server takes as `_id`: those that it refuses stand in a document.
    pub fn id(&mut self) -> Key {
        let value = self.value(3);
        let refused = matches!(value.0, 0x04 | 0x06 | 0x0b);
        let Value(element_type, bytes) = if refused || self.random.random_bool(0.3) {
            document(0x03, &[(b"v".to_vec(), value)])
        } else {
            value
        };
        Key::from(RawValue::from_parts(element_type, &bytes).unwrap())
    }

    /// A value of any type, as its type and its bytes.
    pub fn any(&mut self) -> (u8, Vec<u8>) {
        let Value(element_type, bytes) = self.value(2);
        (element_type, bytes)
    }

    /// A bound for a range: one of `keys`, another value, or an end of the order.
    pub fn bound(&mut self, keys: &[Key]) -> Key {
        match self.random.random_range(0..10) {
            0 => Key::MIN,
            1 => Key::MAX,
            2..6 => self.id(),
            _ => self.pick(keys),
        }
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices.choose(&mut self.random).unwrap().clone()
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn value(&mut self, depth: usize) -> Value {
        // Half of all values are numbers: they have the most ways to go wrong.
        match self.below(if depth > 0 { 40 } else { 34 }) {
            0..20 => self.number(),
            20 => Value(self.pick(&[0xff, 0x7f, 0x06, 0x0a]), vec![]),
            21..25 => Value(self.pick(&[0x02, 0x0e]), self.string()),
            25 => Value(0x0d, self.string()),
            26..29 => self.binary(),
            29 => Value(0x07, self.object_id()),
            30 => Value(0x08, vec![self.below(2) as u8]),
            31 => Value(self.pick(&[0x09, 0x11]), self.moment().to_le_bytes().to_vec()),
            32 => Value(0x0b, [self.c_string(), self.c_string()].concat()),
            33 => Value(0x0c, [self.string(), self.object_id()].concat()),
            34..37 => self.fields(0x03, depth - 1),
            37..39 => self.fields(0x04, depth - 1),
            _ => {
                let parts = [self.string(), self.fields(0x03, depth - 1).1].concat();
                Value(0x0f, [(parts.len() as u32 + 4).to_le_bytes().to_vec(), parts].concat())
            }
        }
    }

    fn fields(&mut self, element_type: u8, depth: usize) -> Value {
        let count = self.below(4);
        let fields: Vec<(Vec<u8>, Value)> = (0..count)
            .map(|index| {
                let array = element_type == 0x04 && self.random.random_bool(0.9);
                let name = if array {
                    index.to_string().into_bytes()
                } else {
                    self.name()
                };
                (name, self.value(depth))
            })
            .collect();
        document(element_type, &fields)
    }

    fn name(&mut self) -> Vec<u8> {
        self.pick(&["", "a", "aa", "b", "_id", "é"]).into()
    }

    /// With its length and terminator. Not all of them are UTF-8.
    fn string(&mut self) -> Vec<u8> {
        let letters = ["a", "b", "\0", "\u{1}", "é", "\u{10ffff}"].map(str::as_bytes);
        let count = self.below(5);
        let mut text: Vec<u8> = (0..count).flat_map(|_| self.pick(&letters).to_vec()).collect();
        if self.random.random_bool(0.1) {
            text.push(self.random.random_range(0x80..=0xff));
        }
        text.push(0);
        [(text.len() as u32).to_le_bytes().to_vec(), text].concat()
    }

    fn c_string(&mut self) -> Vec<u8> {
        let count = self.below(3);
        let mut text: Vec<u8> = (0..count).map(|_| self.pick(b"aim^\x01")).collect();
        text.push(0);
        text
    }

    fn binary(&mut self) -> Value {
        let length = self.pick(&[0, 1, 2, 3, 4, 5, 8, 16, 0xfe, 0xff, 0x100]);
        let subtype = self.pick(&[0, 2, 3, 4, 5, 0x80, 0xff]);
        let fill = self.pick(&[0, 1, 0x7f, 0x80, 0xff]);
        let mut content = vec![fill; length];
        if let Some(first) = content.first_mut() {
            *first = self.random.random_range(0..3);
        }
        // The inner length of the old subtype, or a wrong one.
        if subtype == 2 && length >= 4 && self.random.random_bool(0.7) {
            content[..4].copy_from_slice(&(length as u32 - 4).to_le_bytes());
        }
        Value(
            0x05,
            [(length as u32).to_le_bytes().to_vec(), vec![subtype], content].concat(),
        )
    }

    fn object_id(&mut self) -> Vec<u8> {
        let mut id = vec![self.pick(&[0, 0x7f, 0x80]); 12];
        id[11] = self.random.random_range(0..4);
        id
    }

    fn moment(&mut self) -> u64 {
        let edges = [
            0,
            1,
            u64::MAX,
            1 << 32,
            (1 << 32) - 1,
            1 << 63,
            (1 << 63) - 1,
            1_700_000_000_000,
        ];
        if self.random.random_bool(0.7) {
            self.pick(&edges)
        } else {
            self.random.random()
        }
    }

    fn number(&mut self) -> Value {
        match self.below(10) {
            0 => {
                let double = self.pick(&[f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0]);
                Value(0x01, double.to_le_bytes().to_vec())
            }
            1 => self.strange_decimal(),
            2..6 => {
                let integer = self.integer();
                self.integer_in_some_type(integer)
            }
            _ => {
                let double = self.double();
                if self.random.random_bool(0.5) {
                    Value(0x01, double.to_le_bytes().to_vec())
                } else {
                    self.decimal_near(double)
                }
            }
        }
    }

    /// Near a power of two or ten, near zero, or anywhere.
    fn integer(&mut self) -> i64 {
        let near = self.random.random_range(-3..=3);
        let integer = match self.below(6) {
            0 | 1 => near,
            2 => (1_i64 << self.pick(&[31, 32, 52, 53, 54, 55, 56, 62])).wrapping_add(near),
            3 => i64::MAX.wrapping_add(near),
            4 => 10_i64.pow(self.random.random_range(0..=18)).wrapping_add(near),
            _ => self.random.random(),
        };
        if self.random.random_bool(0.5) {
            integer
        } else {
            integer.wrapping_neg()
        }
    }

    fn integer_in_some_type(&mut self, integer: i64) -> Value {
        match self.below(4) {
            0 => match i32::try_from(integer) {
                Ok(integer) => Value(0x10, integer.to_le_bytes().to_vec()),
                Err(_) => Value(0x12, integer.to_le_bytes().to_vec()),
            },
            1 => Value(0x12, integer.to_le_bytes().to_vec()),
            2 => {
                let double = integer as f64;
                let double = self.pick(&[double, double, double.next_up(), double.next_down()]);
                Value(0x01, double.to_le_bytes().to_vec())
            }
            _ => {
                // The same integer with zeros behind the point, and sometimes with a last digit that is not zero.
                let zeros = self.random.random_range(0..=15);
                let coefficient = u128::from(integer.unsigned_abs()) * 10_u128.pow(zeros);
                let change = self.pick(&[0, 0, 0, 1]);
                decimal(integer < 0, coefficient + change, -(zeros as i32))
            }
        }
    }

    /// Any finite double, often a short one, often one at the edges of the ranges that the server encodes differently.
    fn double(&mut self) -> f64 {
        let double = match self.below(8) {
            0 => f64::from_bits(self.random.random_range(0..5)),
            1 => f64::from_bits(f64::MIN_POSITIVE.to_bits() - 2 + self.random.random_range(0..5)),
            2 => self.pick(&[
                0.1,
                0.5,
                1.1,
                2.5,
                1e22,
                1e23,
                1e-5,
                9007199254740992.5,
                f64::MAX,
                1e15,
                1e16,
            ]),
            3 => 2_f64.powi(self.pick(&[
                -1074, -1060, -1022, -256, -255, -254, -1, 0, 53, 55, 56, 63, 64, 200, 1023,
            ])),
            4 => self.random.random_range(-1000..1000) as f64 / self.pick(&[2.0, 3.0, 8.0, 10.0, 1000.0]),
            5 => self.random.random_range(1.0..2.0) * 2_f64.powi(self.random.random_range(-1074..1023)),
            6 => self.random.random_range(0.0..1e20),
            _ => f64::from_bits(self.random.random()),
        };
        let double = self.pick(&[double, double, double.next_up(), double.next_down()]);
        let double = if double.is_finite() { double } else { f64::MAX };
        if self.random.random_bool(0.5) { double } else { -double }
    }

    /// The double rounded to a number of digits from 1 to 34, which is exact for some doubles and close above or below for the
    /// others, and up to two units in the last place beside that.
    fn decimal_near(&mut self, double: f64) -> Value {
        let digits = self.pick(&[1, 2, 14, 15, 16, 17, 18, 33, 34, 34, 34]);
        let text = format!("{:.*e}", digits - 1, double.abs());
        let (mantissa, exponent) = text.split_once('e').unwrap();
        let coefficient: u128 = mantissa.replace('.', "").parse().unwrap();
        let change = self.pick(&[0, 0, 1, 2]);
        let coefficient = if self.random.random_bool(0.5) {
            coefficient + change
        } else {
            coefficient.saturating_sub(change)
        };
        decimal(
            double.is_sign_negative(),
            coefficient,
            exponent.parse::<i32>().unwrap() - digits as i32 + 1,
        )
    }

    /// Beyond the doubles, or one of the many forms of zero, NaN and infinity.
    fn strange_decimal(&mut self) -> Value {
        let negative = self.random.random_bool(0.5);
        let coefficient = self.pick(&[0, 1, 10, 99, 10_u128.pow(33), 10_u128.pow(34) - 1, 10_u128.pow(34)]);
        let exponent = self.pick(&[
            -6176, -6175, -6143, -400, -324, -357, -323, -1, 0, 275, 276, 308, 309, 400, 6110, 6111,
        ]);
        let bits = match self.below(6) {
            0 => 0b11111 << 122,
            1 => 0b111111 << 121 | 42,
            2 => 0b11110 << 122 | self.pick(&[0, 1]),
            // The long form of coefficients, all of which have too many digits.
            3 => 0b11 << 125 | 12345,
            _ => return decimal(negative, coefficient, exponent),
        };
        Value(0x13, (bits | u128::from(negative) << 127).to_le_bytes().to_vec())
    }
}

fn decimal(negative: bool, coefficient: u128, exponent: i32) -> Value {
    let biased = u128::try_from(exponent + 6176).unwrap();
    Value(
        0x13,
        (u128::from(negative) << 127 | biased << 113 | coefficient)
            .to_le_bytes()
            .to_vec(),
    )
}

fn document(element_type: u8, fields: &[(Vec<u8>, Value)]) -> Value {
    let mut bytes = vec![0; 4];
    for (name, Value(element_type, value)) in fields {
        bytes.push(*element_type);
        bytes.extend(name);
        bytes.push(0);
        bytes.extend(value);
    }
    bytes.push(0);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Value(element_type, bytes)
}
