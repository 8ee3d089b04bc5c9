//! Compares numbers of all four BSON types by exact mathematical value, without rounding.

use std::cmp::Ordering;

use bson::Decimal128;

use super::hash::Feed;
#[cfg(test)]
use super::hash::StableHasher;
use super::wide::Wide;

/// A number and its class. The variants are in ascending order, except that the three finite ones share one rank.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    NaN,
    NegativeInfinity,
    Integer(i64),
    /// Finite.
    Double(f64),
    Decimal(Decimal),
    Infinity,
}

/// `(-1)^negative * coefficient * 10^exponent`. The coefficient has at most 34 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    coefficient: u128,
    exponent: i32,
}

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_TO_53: u128 = 1 << 53;

impl From<i64> for Number {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl From<f64> for Number {
    fn from(double: f64) -> Self {
        if double.is_nan() {
            Self::NaN
        } else if double == f64::INFINITY {
            Self::Infinity
        } else if double == f64::NEG_INFINITY {
            Self::NegativeInfinity
        } else {
            Self::Double(double)
        }
    }
}

impl From<Decimal128> for Number {
    /// Reads the binary integer encoding of IEEE 754, in which a coefficient of more than 34 digits means zero.
    fn from(decimal: Decimal128) -> Self {
        let bits = u128::from_le_bytes(decimal.bytes());
        let negative = bits >> 127 == 1;
        match bits >> 122 & 0b11111 {
            0b11111 => Self::NaN,
            0b11110 if negative => Self::NegativeInfinity,
            0b11110 => Self::Infinity,
            // All coefficients in this form have more than 34 digits.
            combination if combination >> 3 == 0b11 => Self::Integer(0),
            _ => {
                let coefficient = bits & ((1 << 113) - 1);
                let exponent = (bits >> 113 & 0x3fff) as i32 - 6176;
                if coefficient == 0 || coefficient >= 10u128.pow(34) {
                    Self::Integer(0)
                } else {
                    Self::Decimal(Decimal {
                        negative,
                        coefficient,
                        exponent,
                    })
                }
            }
        }
    }
}

impl Number {
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Integer(left), Self::Integer(right)) => left.cmp(&right),
            (Self::Double(left), Self::Double(right)) => compare_doubles(left, right),
            (Self::Integer(left), Self::Double(right)) => compare_integer_to_double(left, right),
            (Self::Double(left), Self::Integer(right)) => compare_integer_to_double(right, left).reverse(),
            (Self::Decimal(left), Self::Decimal(right)) => left.compare(right),
            (Self::Decimal(left), Self::Integer(right)) => left.compare(right.into()),
            (Self::Integer(left), Self::Decimal(right)) => Decimal::from(left).compare(right),
            (Self::Decimal(left), Self::Double(right)) => compare_decimal_to_double(left, right),
            (Self::Double(left), Self::Decimal(right)) => compare_decimal_to_double(right, left).reverse(),
            _ => self.class().cmp(&other.class()),
        }
    }

    /// Feeds the same words for all numbers that are equal.
    pub(super) fn feed(&self, hasher: &mut impl Feed) {
        let reduced = self.reduced();
        match reduced {
            Self::NaN => hasher.word(0),
            Self::NegativeInfinity => hasher.word(1),
            Self::Infinity => hasher.word(2),
            Self::Integer(integer) => {
                hasher.word(3);
                hasher.word(integer.cast_unsigned());
            }
            Self::Double(double) => {
                hasher.word(4);
                hasher.word(double.to_bits());
            }
            Self::Decimal(Decimal {
                negative,
                coefficient,
                exponent,
            }) => {
                hasher.word(5 + u64::from(negative));
                hasher.word(coefficient as u64);
                hasher.word((coefficient >> 64) as u64);
                hasher.word(i64::from(exponent).cast_unsigned());
            }
        }
    }

    pub(super) fn is_nan(&self) -> bool {
        matches!(self, Self::NaN)
    }

    /// The whole part of a number, if it is finite and fits.
    pub(super) fn truncated(&self) -> Option<i64> {
        match *self {
            Self::NaN | Self::NegativeInfinity | Self::Infinity => None,
            Self::Integer(integer) => Some(integer),
            Self::Double(double) => (-TWO_TO_63..TWO_TO_63).contains(&double).then_some(double as i64),
            Self::Decimal(decimal) => decimal.truncated(),
        }
    }

    fn class(&self) -> u8 {
        match self {
            Self::NaN => 0,
            Self::NegativeInfinity => 1,
            Self::Integer(_) | Self::Double(_) | Self::Decimal(_) => 2,
            Self::Infinity => 3,
        }
    }

    /// The form that all equal numbers share: an integer if possible, else a double, else a decimal without trailing zeros.
    fn reduced(self) -> Self {
        match self {
            Self::Double(double) if double.fract() == 0.0 && (-TWO_TO_63..TWO_TO_63).contains(&double) => {
                Self::Integer(double as i64)
            }
            Self::Decimal(decimal) => {
                let decimal = decimal.without_trailing_zeros();
                if let Some(integer) = decimal.to_integer() {
                    Self::Integer(integer)
                } else if let Some(double) = decimal.to_double() {
                    Self::Double(double)
                } else {
                    Self::Decimal(decimal)
                }
            }
            other => other,
        }
    }
}

impl From<i64> for Decimal {
    fn from(integer: i64) -> Self {
        Self {
            negative: integer < 0,
            coefficient: integer.unsigned_abs().into(),
            exponent: 0,
        }
    }
}

impl Decimal {
    fn compare(self, other: Self) -> Ordering {
        self.sign().cmp(&other.sign()).then_with(|| {
            let magnitudes = self.compare_magnitude(other);
            if self.negative {
                magnitudes.reverse()
            } else {
                magnitudes
            }
        })
    }

    fn sign(self) -> i8 {
        match (self.coefficient, self.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        }
    }

    fn compare_magnitude(self, other: Self) -> Ordering {
        self.leading_place().cmp(&other.leading_place()).then_with(|| {
            // The leading places are equal, so extending the shorter coefficient makes it as long as the other one: at most 34 digits,
            // which fit.
            let (shift, other_shift) = (self.exponent - other.exponent, other.exponent - self.exponent);
            scaled(self.coefficient, shift).cmp(&scaled(other.coefficient, other_shift))
        })
    }

    /// The exponent of the power of ten just above the number: the number is at least `10^(place - 1)` and less than `10^place`.
    fn leading_place(self) -> i32 {
        self.coefficient.checked_ilog10().map_or(0, |digits| digits as i32 + 1) + self.exponent
    }

    fn truncated(self) -> Option<i64> {
        let scale = 10u128.checked_pow(self.exponent.unsigned_abs());
        let magnitude = match scale {
            Some(scale) if self.exponent >= 0 => self.coefficient.checked_mul(scale)?,
            Some(scale) => self.coefficient / scale,
            None if self.exponent >= 0 => return None,
            None => 0,
        };
        let magnitude = i128::try_from(magnitude).ok()?;
        i64::try_from(if self.negative { -magnitude } else { magnitude }).ok()
    }

    fn without_trailing_zeros(mut self) -> Self {
        while self.coefficient != 0 && self.coefficient.is_multiple_of(10) {
            self.coefficient /= 10;
            self.exponent += 1;
        }
        self
    }

    /// The integer that the number equals, if there is one. The number must not have trailing zeros.
    fn to_integer(self) -> Option<i64> {
        let scale = 10u128.checked_pow(u32::try_from(self.exponent).ok()?)?;
        let magnitude = i128::try_from(self.coefficient.checked_mul(scale)?).ok()?;
        i64::try_from(if self.negative { -magnitude } else { magnitude }).ok()
    }

    /// The double that the number equals, if there is one. The number must not have trailing zeros.
    fn to_double(self) -> Option<f64> {
        let mut odd = self.coefficient >> self.coefficient.trailing_zeros();
        if self.exponent >= 0 {
            for _ in 0..self.exponent {
                if odd > TWO_TO_53 {
                    return None;
                }
                odd *= 5;
            }
        } else {
            for _ in self.exponent..0 {
                if !odd.is_multiple_of(5) {
                    return None;
                }
                odd /= 5;
            }
        }
        if odd > TWO_TO_53 {
            return None;
        }
        // The function has already returned for a product with 5^23 or a quotient by 5^50. So the value is far from the limits of doubles,
        // and both factors are exact.
        let binary_exponent = i64::from(self.exponent) + i64::from(self.coefficient.trailing_zeros());
        let power = f64::from_bits(u64::try_from(1023 + binary_exponent).ok()? << 52);
        let magnitude = odd as f64 * power;
        Some(if self.negative { -magnitude } else { magnitude })
    }
}

/// `coefficient * 10^shift`. A negative shift changes nothing.
fn scaled(coefficient: u128, shift: i32) -> u128 {
    let scale = u32::try_from(shift).ok().and_then(|shift| 10u128.checked_pow(shift));
    coefficient.saturating_mul(scale.unwrap_or(1))
}

/// Compares finite doubles, which always have an order. -0 and 0 are equal.
fn compare_doubles(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or(Ordering::Equal)
}

fn compare_integer_to_double(integer: i64, double: f64) -> Ordering {
    if double >= TWO_TO_63 {
        Ordering::Less
    } else if double < -TWO_TO_63 {
        Ordering::Greater
    } else {
        let whole = double.trunc();
        integer
            .cmp(&(whole as i64))
            .then_with(|| compare_doubles(whole, double))
    }
}

fn compare_decimal_to_double(decimal: Decimal, double: f64) -> Ordering {
    let double_sign = if double == 0.0 { 0 } else { double.signum() as i8 };
    decimal.sign().cmp(&double_sign).then_with(|| {
        let magnitudes = compare_magnitude_to_double(decimal, double.abs());
        if decimal.negative {
            magnitudes.reverse()
        } else {
            magnitudes
        }
    })
}

/// Compares the magnitude of a nonzero decimal with a positive double.
fn compare_magnitude_to_double(decimal: Decimal, double: f64) -> Ordering {
    // Doubles lie between 10^-324 and 10^309. Decimals beyond that range are decided here, which limits the size of the wide integers
    // below.
    let place = decimal.leading_place();
    if place > 309 {
        return Ordering::Greater;
    }
    if place < -323 {
        return Ordering::Less;
    }
    let bits = double.to_bits();
    let (fraction, biased) = (bits & ((1 << 52) - 1), (bits >> 52) as i32);
    let (mantissa, binary_exponent) = match biased {
        0 => (fraction, -1074),
        _ => (fraction | 1 << 52, biased - 1075),
    };

    // Compare c * 5^q * 2^q with m * 2^e. Put the power of five on the side where its exponent is positive.
    let mut left = Wide::from(decimal.coefficient);
    let mut right = Wide::from(u128::from(mantissa));
    if decimal.exponent >= 0 { &mut left } else { &mut right }.multiply_by_power_of_5(decimal.exponent.unsigned_abs());
    let (left_exponent, right_exponent) = (decimal.exponent, binary_exponent);
    let left_magnitude = left.bit_length() + left_exponent;
    let right_magnitude = right.bit_length() + right_exponent;
    left_magnitude.cmp(&right_magnitude).then_with(|| {
        // The magnitudes are equal, so shifting makes the shorter number exactly as long as the longer one.
        left.shift_left(left_exponent.saturating_sub(right_exponent));
        right.shift_left(right_exponent.saturating_sub(left_exponent));
        left.cmp(&right)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Number {
        text.parse::<Decimal128>().unwrap().into()
    }

    fn hash(number: Number) -> u64 {
        let mut hasher = StableHasher::new();
        number.feed(&mut hasher);
        hasher.finish()
    }

    #[track_caller]
    fn assert_ascending(numbers: &[Number]) {
        for (index, left) in numbers.iter().enumerate() {
            for right in &numbers[index + 1..] {
                assert_eq!(left.cmp(right), Ordering::Less, "{left:?} < {right:?}");
                assert_eq!(right.cmp(left), Ordering::Greater, "{right:?} > {left:?}");
                assert_ne!(hash(*left), hash(*right), "{left:?} and {right:?} have the same hash");
            }
        }
    }

    #[track_caller]
    fn assert_equal(numbers: &[Number]) {
        for left in numbers {
            for right in numbers {
                assert_eq!(left.cmp(right), Ordering::Equal, "{left:?} = {right:?}");
                assert_eq!(hash(*left), hash(*right), "{left:?} and {right:?} differ in hash");
            }
        }
    }

    #[test]
    fn doubles_and_integers_compare_without_rounding() {
        let at_53 = 1i64 << 53;
        assert_ascending(&[
            f64::NAN.into(),
            f64::NEG_INFINITY.into(),
            (-TWO_TO_63).next_down().into(),
            i64::MIN.into(),
            (i64::MIN + 1).into(),
            (-1.5).into(),
            (-1).into(),
            (-0.5).into(),
            0.into(),
            f64::from_bits(1).into(),
            0.5.into(),
            1.into(),
            (at_53 - 1).into(),
            (at_53 as f64).into(),
            (at_53 + 1).into(),
            (at_53 + 2).into(),
            (i64::MAX - 1).into(),
            i64::MAX.into(),
            TWO_TO_63.into(),
            f64::MAX.into(),
            f64::INFINITY.into(),
        ]);
    }

    #[test]
    fn decimals_compare_with_the_exact_value_of_doubles() {
        assert_ascending(&[
            decimal("NaN"),
            decimal("-Infinity"),
            decimal("-9.999999999999999999999999999999999E+6144"),
            f64::MIN.into(),
            decimal("-9223372036854775808.000000000000001"),
            i64::MIN.into(),
            decimal("-9223372036854775807.999999999999999"),
            (-0.1).into(),
            decimal("-0.1"),
            decimal("-1E-6176"),
            0.into(),
            decimal("1E-6176"),
            decimal("4.940656458412465441765687928682213E-324"),
            f64::from_bits(1).into(),
            decimal("4.940656458412465441765687928682214E-324"),
            f64::from_bits(2).into(),
            f64::MIN_POSITIVE.next_down().into(),
            decimal("2.225073858507201383090232717332404E-308"),
            f64::MIN_POSITIVE.into(),
            decimal("2.225073858507201383090232717332405E-308"),
            decimal("0.1"),
            decimal("0.1000000000000000055511151231257827"),
            0.1.into(),
            decimal("0.1000000000000000055511151231257828"),
            0.1f64.next_up().into(),
            decimal("1.1"),
            1.1.into(),
            (1e23).into(),
            decimal("1E+23"),
            decimal("1.797693134862315708145274237317043E+308"),
            f64::MAX.into(),
            decimal("1.797693134862315708145274237317044E+308"),
            decimal("1E+309"),
            decimal("1E+6144"),
            decimal("Infinity"),
        ]);
    }

    #[test]
    fn equal_numbers_of_different_types_have_the_same_hash() {
        assert_equal(&[1.into(), 1.0.into(), decimal("1"), decimal("1.000"), decimal("10E-1")]);
        assert_equal(&[
            0.into(),
            0.0.into(),
            (-0.0).into(),
            decimal("0"),
            decimal("-0E+6111"),
            decimal("0E-6176"),
        ]);
        assert_equal(&[f64::NAN.into(), (-f64::NAN).into(), decimal("NaN"), decimal("-NaN")]);
        assert_equal(&[f64::INFINITY.into(), decimal("Infinity")]);
        assert_equal(&[f64::NEG_INFINITY.into(), decimal("-Infinity")]);
        assert_equal(&[(-0.375).into(), decimal("-0.375"), decimal("-0.37500")]);
        assert_equal(&[i64::MIN.into(), (-TWO_TO_63).into(), decimal("-9223372036854775808")]);
        assert_equal(&[1e22.into(), decimal("1E+22"), decimal("10000000000000000000000")]);
        assert_equal(&[2f64.powi(100).into(), decimal("1267650600228229401496703205376")]);
        assert_equal(&[2f64.powi(-40).into(), decimal("9.094947017729282379150390625E-13")]);
    }

    #[test]
    fn coefficients_of_more_than_34_digits_are_zero() {
        let too_many = (6176u128 << 113) | 10u128.pow(34);
        let long_form = (0b11u128 << 125) | 12345;
        for bits in [too_many, long_form, too_many | 1 << 127] {
            assert_equal(&[0.into(), Decimal128::from_bytes(bits.to_le_bytes()).into()]);
        }
    }

    #[test]
    fn every_kind_of_nan_and_infinity_is_recognized() {
        let signaling = (0b111111u128 << 121) | 42;
        assert_equal(&[f64::NAN.into(), Decimal128::from_bytes(signaling.to_le_bytes()).into()]);
        let dirty_infinity = (0b11110u128 << 122) | 42;
        assert_equal(&[
            f64::INFINITY.into(),
            Decimal128::from_bytes(dirty_infinity.to_le_bytes()).into(),
        ]);
    }

    #[test]
    fn a_decimal_equals_the_double_of_the_same_value() {
        // Every power of two in this range has at most 34 digits.
        for exponent in -48..=112 {
            let double = 2f64.powi(exponent);
            let coefficient = if exponent >= 0 {
                1u128 << exponent
            } else {
                5u128.pow(exponent.unsigned_abs())
            };
            let decimal = Decimal {
                negative: false,
                coefficient,
                exponent: exponent.min(0),
            };
            assert_equal(&[double.into(), Number::Decimal(decimal)]);
            assert_ascending(&[
                double.next_down().into(),
                Number::Decimal(decimal),
                double.next_up().into(),
            ]);
        }
    }
}
