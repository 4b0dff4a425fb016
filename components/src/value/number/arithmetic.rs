//! Arithmetic and logic on numbers (page 01 §7.1, §7.3): a result that its class cannot hold is an error.

use crate::value::error::{Error, Result};

use super::{Number, NumberType};

/// Two operands in the class of their result (§7.1).
enum Pair {
    Bool(bool, bool),
    Integer(NumberType, i128, i128),
    F32(f32, f32),
    F64(f64, f64),
    Complex(NumberType, [f64; 2], [f64; 2]),
}

/// bool < uint < int < float < complex (§7.1).
fn kind(class: NumberType) -> u8 {
    use NumberType::*;
    match class {
        Bool => 0,
        UInt | U8 | U16 | U32 | U64 => 1,
        Int | I16 | I32 | I64 => 2,
        Number | Float | F32 | F64 => 3,
        Complex | C32 | C64 => 4,
    }
}

/// The class of the result of two operands of these classes (§7.1).
fn promoted(left: NumberType, right: NumberType) -> NumberType {
    use NumberType::*;
    let wide = left.is_wide() || right.is_wide();
    match kind(left).max(kind(right)) {
        // Within these kinds the declared order of the classes is the order of their widths.
        0 | 1 => left.max(right),
        2 => signed(left).max(signed(right)),
        3 if wide => F64,
        3 => F32,
        _ if wide => C64,
        _ => C32,
    }
}

/// The narrowest signed class that holds an integer of this class; of u64, the widest there is.
fn signed(class: NumberType) -> NumberType {
    use NumberType::*;
    match class {
        Bool | U8 => I16,
        U16 => I32,
        U32 | U64 => I64,
        signed => signed,
    }
}

/// The integer as one of this class, if it fits.
fn narrow(integer: i128, class: NumberType) -> Option<Number> {
    match class {
        NumberType::U8 => integer.try_into().ok().map(Number::U8),
        NumberType::U16 => integer.try_into().ok().map(Number::U16),
        NumberType::U32 => integer.try_into().ok().map(Number::U32),
        NumberType::U64 => integer.try_into().ok().map(Number::U64),
        NumberType::I16 => integer.try_into().ok().map(Number::I16),
        NumberType::I32 => integer.try_into().ok().map(Number::I32),
        NumberType::I64 => integer.try_into().ok().map(Number::I64),
        _ => None,
    }
}

fn complex(parts: [f64; 2], class: NumberType) -> Number {
    Number::C64(parts).cast(class)
}

fn complex_mul([a, b]: [f64; 2], [c, d]: [f64; 2]) -> [f64; 2] {
    [a * c - b * d, a * d + b * c]
}

fn complex_div([a, b]: [f64; 2], [c, d]: [f64; 2]) -> [f64; 2] {
    // The textbook formula rounds least, but its squares need room.
    let has_room = |x: &f64| *x == 0.0 || (1e-70..1e70).contains(&x.abs());
    if [a, b, c, d].iter().all(has_room) {
        let norm = c * c + d * d;
        [(a * c + b * d) / norm, (b * c - a * d) / norm]
    } else if c.abs() >= d.abs() {
        // Smith's method: the ratio of the divisor's parts never overflows.
        let ratio = d / c;
        let divisor = c + d * ratio;
        [(a + b * ratio) / divisor, (b - a * ratio) / divisor]
    } else {
        let ratio = c / d;
        let divisor = c * ratio + d;
        [(a * ratio + b) / divisor, (b * ratio - a) / divisor]
    }
}

/// The principal value of `base` to the power of `exponent`; none if that is a division by zero.
fn complex_pow(base: [f64; 2], exponent: [f64; 2]) -> Option<[f64; 2]> {
    let [x, y] = exponent;
    if exponent == [0.0; 2] {
        return Some([1.0, 0.0]);
    }
    if base == [0.0; 2] {
        return (x > 0.0).then_some([0.0; 2]);
    }
    // Beyond this, repeated multiplication is no more exact than the logarithm.
    const MULTIPLIED_MAX: f64 = 1024.0;
    if y == 0.0 && x.fract() == 0.0 && x.abs() <= MULTIPLIED_MAX {
        let mut square = if x < 0.0 { complex_div([1.0, 0.0], base) } else { base };
        let mut power = [1.0, 0.0];
        let mut left = x.abs() as u32;
        loop {
            if left & 1 == 1 {
                power = complex_mul(power, square);
            }
            left >>= 1;
            if left == 0 {
                return Some(power);
            }
            square = complex_mul(square, square);
        }
    }
    let [re, im] = base;
    let (log, angle) = (re.hypot(im).ln(), im.atan2(re));
    let norm = (x * log - y * angle).exp();
    let (sin, cos) = (y * log + x * angle).sin_cos();
    Some([norm * cos, norm * sin])
}

fn integer_pow(base: i128, exponent: i128) -> Option<i128> {
    match base {
        // These alone can take an exponent that does not fit into 32 bits.
        0 | 1 if exponent > 0 => Some(base),
        -1 => Some(if exponent % 2 == 0 { 1 } else { -1 }),
        _ => base.checked_pow(exponent.try_into().ok()?),
    }
}

impl Number {
    fn pair(self, other: Number) -> Result<Pair> {
        if let (Self::Bool(x), Self::Bool(y)) = (self, other) {
            return Ok(Pair::Bool(x, y));
        }
        let class = promoted(self.class(), other.class());
        if let (Some(x), Some(y)) = (self.integer(), other.integer()) {
            for operand in [x, y] {
                if narrow(operand, class).is_none() {
                    return Err(Error::bad_request(format_args!(
                        "{operand} does not fit {class}, the class of the result"
                    )));
                }
            }
            return Ok(Pair::Integer(class, x, y));
        }
        Ok(match (self.cast(class), other.cast(class)) {
            (Self::F32(x), Self::F32(y)) => Pair::F32(x, y),
            (Self::F64(x), Self::F64(y)) => Pair::F64(x, y),
            (x, y) => Pair::Complex(class, x.to_complex(), y.to_complex()),
        })
    }

    fn overflow(self, symbol: &str, other: Number, class: NumberType) -> Error {
        Error::bad_request(format_args!("{self} {symbol} {other} does not fit {class}"))
    }

    /// The sum in the promoted class (page 01 §7.1); of truth values, `or` (§7.3).
    #[expect(clippy::should_implement_trait, reason = "the name in the language; it can fail")]
    pub fn add(self, other: Number) -> Result<Number> {
        Ok(match self.pair(other)? {
            Pair::Bool(x, y) => Self::Bool(x | y),
            Pair::Integer(class, x, y) => x
                .checked_add(y)
                .and_then(|sum| narrow(sum, class))
                .ok_or_else(|| self.overflow("+", other, class))?,
            Pair::F32(x, y) => Self::F32(x + y),
            Pair::F64(x, y) => Self::F64(x + y),
            Pair::Complex(class, [a, b], [c, d]) => complex([a + c, b + d], class),
        })
    }

    /// The difference in the promoted class (page 01 §7.1); of truth values, `xor` (§7.3).
    #[expect(clippy::should_implement_trait, reason = "the name in the language; it can fail")]
    pub fn sub(self, other: Number) -> Result<Number> {
        Ok(match self.pair(other)? {
            Pair::Bool(x, y) => Self::Bool(x ^ y),
            Pair::Integer(class, x, y) => x
                .checked_sub(y)
                .and_then(|difference| narrow(difference, class))
                .ok_or_else(|| self.overflow("-", other, class))?,
            Pair::F32(x, y) => Self::F32(x - y),
            Pair::F64(x, y) => Self::F64(x - y),
            Pair::Complex(class, [a, b], [c, d]) => complex([a - c, b - d], class),
        })
    }

    /// The product in the promoted class (page 01 §7.1); of truth values, `and` (§7.3).
    #[expect(clippy::should_implement_trait, reason = "the name in the language; it can fail")]
    pub fn mul(self, other: Number) -> Result<Number> {
        Ok(match self.pair(other)? {
            Pair::Bool(x, y) => Self::Bool(x & y),
            Pair::Integer(class, x, y) => x
                .checked_mul(y)
                .and_then(|product| narrow(product, class))
                .ok_or_else(|| self.overflow("*", other, class))?,
            Pair::F32(x, y) => Self::F32(x * y),
            Pair::F64(x, y) => Self::F64(x * y),
            Pair::Complex(class, x, y) => complex(complex_mul(x, y), class),
        })
    }

    /// The quotient in the promoted class, of integers truncated (page 01 §7.3); by any zero, an error.
    #[expect(clippy::should_implement_trait, reason = "the name in the language; it can fail")]
    pub fn div(self, other: Number) -> Result<Number> {
        if !other.truthy() {
            return Err(Error::bad_request(format_args!("cannot divide {self} by zero")));
        }
        Ok(match self.pair(other)? {
            Pair::Bool(x, _) => Self::Bool(x),
            Pair::Integer(class, x, y) => x
                .checked_div(y)
                .and_then(|quotient| narrow(quotient, class))
                .ok_or_else(|| self.overflow("/", other, class))?,
            Pair::F32(x, y) => Self::F32(x / y),
            Pair::F64(x, y) => Self::F64(x / y),
            Pair::Complex(class, x, y) => complex(complex_div(x, y), class),
        })
    }

    /// The power (page 01 §7.3): of an integer to a natural number exact, of a complex number the principal value.
    pub fn pow(self, exponent: Number) -> Result<Number> {
        if let Self::Bool(base) = self {
            return Ok(Self::Bool(base || !exponent.truthy()));
        }
        let natural = exponent.integer().filter(|exponent| *exponent >= 0);
        if let (Some(base), Some(natural)) = (self.integer(), natural) {
            return integer_pow(base, natural)
                .and_then(|power| narrow(power, self.class()))
                .ok_or_else(|| self.overflow("to the power of", exponent, self.class()));
        }
        // The width of an integer exponent says nothing about the precision that is wanted.
        let wide = self.class().is_wide() || (exponent.integer().is_none() && exponent.class().is_wide());
        if self.is_complex() || exponent.is_complex() {
            let class = if wide { NumberType::C64 } else { NumberType::C32 };
            let power = complex_pow(self.to_complex(), exponent.to_complex());
            return power
                .map(|power| complex(power, class))
                .ok_or_else(|| Error::bad_request(format_args!("zero has no power of {exponent}")));
        }
        let power = self.as_f64().powf(exponent.as_f64());
        Ok(if wide { Self::F64(power) } else { Self::F32(power as f32) })
    }

    /// The absolute value in the same class; of a complex number its norm, a float (page 01 §7.3).
    pub fn abs(self) -> Result<Number> {
        Ok(match self {
            Self::F32(x) => Self::F32(x.abs()),
            Self::F64(x) => Self::F64(x.abs()),
            Self::C32([re, im]) => Self::F32(f64::from(re).hypot(im.into()) as f32),
            Self::C64([re, im]) => Self::F64(re.hypot(im)),
            integer => match integer.integer() {
                Some(x) if x < 0 => narrow(-x, self.class()).ok_or_else(|| {
                    Error::bad_request(format_args!("{} does not fit {}", -x, self.class()))
                })?,
                _ => self,
            },
        })
    }

    /// Whether both are non-zero (page 01 §7.3): always a truth value.
    pub fn and(self, other: Number) -> Number {
        Self::Bool(self.truthy() & other.truthy())
    }

    /// Whether either is non-zero (page 01 §7.3): always a truth value.
    pub fn or(self, other: Number) -> Number {
        Self::Bool(self.truthy() | other.truthy())
    }

    /// Whether exactly one is non-zero (page 01 §7.3): always a truth value.
    pub fn xor(self, other: Number) -> Number {
        Self::Bool(self.truthy() ^ other.truthy())
    }

    /// Whether this number is zero (page 01 §7.3): always a truth value.
    #[expect(clippy::should_implement_trait, reason = "the name in the language")]
    pub fn not(self) -> Number {
        Self::Bool(!self.truthy())
    }
}
