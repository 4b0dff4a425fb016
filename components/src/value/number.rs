//! Numbers: booleans, integers, floats and complex numbers of a fixed width (page 01 §7).

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::error::{Error, Result};

mod arithmetic;
mod cast;
mod compare;

/// How many digits a whole float has at most.
const WHOLE_FLOAT_DIGITS_MAX: usize = 309;

/// A number with its width (page 01 §2.1). Equality is by value, across kinds and widths (§7.4).
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// `true` or `false`; 1 or 0 among numbers.
    Bool(bool),
    /// `/state/scalar/value/number/uint/8`.
    U8(u8),
    /// `/state/scalar/value/number/uint/16`.
    U16(u16),
    /// `/state/scalar/value/number/uint/32`.
    U32(u32),
    /// `/state/scalar/value/number/uint/64`.
    U64(u64),
    /// `/state/scalar/value/number/int/16`.
    I16(i16),
    /// `/state/scalar/value/number/int/32`.
    I32(i32),
    /// `/state/scalar/value/number/int/64`.
    I64(i64),
    /// `/state/scalar/value/number/float/32`.
    F32(f32),
    /// `/state/scalar/value/number/float/64`.
    F64(f64),
    /// `/state/scalar/value/number/complex/32`: the real and the imaginary part.
    C32([f32; 2]),
    /// `/state/scalar/value/number/complex/64`: the real and the imaginary part.
    C64([f64; 2]),
}

/// The class of a number, or an abstract class of numbers (page 01 §2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NumberType {
    /// Any number; abstract: a cast keeps the number as it is.
    Number,
    /// A truth value.
    Bool,
    /// Any signed integer; abstract: a cast takes the width from the number.
    Int,
    /// A signed integer of 16 bits.
    I16,
    /// A signed integer of 32 bits.
    I32,
    /// A signed integer of 64 bits.
    I64,
    /// Any unsigned integer; abstract: a cast takes the width from the number.
    UInt,
    /// An unsigned integer of 8 bits.
    U8,
    /// An unsigned integer of 16 bits.
    U16,
    /// An unsigned integer of 32 bits.
    U32,
    /// An unsigned integer of 64 bits.
    U64,
    /// Any float; abstract: a cast takes the width from the number.
    Float,
    /// A float of 32 bits.
    F32,
    /// A float of 64 bits.
    F64,
    /// Any complex number; abstract: a cast takes the width from the number.
    Complex,
    /// A pair of floats of 32 bits.
    C32,
    /// A pair of floats of 64 bits.
    C64,
}

impl NumberType {
    /// Every class of number, the abstract ones included (page 01 §2.1).
    pub const ALL: [NumberType; 17] = [
        NumberType::Number,
        NumberType::Bool,
        NumberType::Int,
        NumberType::I16,
        NumberType::I32,
        NumberType::I64,
        NumberType::UInt,
        NumberType::U8,
        NumberType::U16,
        NumberType::U32,
        NumberType::U64,
        NumberType::Float,
        NumberType::F32,
        NumberType::F64,
        NumberType::Complex,
        NumberType::C32,
        NumberType::C64,
    ];

    /// The path of this class (page 01 §2.1).
    pub fn path(self) -> &'static str {
        match self {
            Self::Number => "/state/scalar/value/number",
            Self::Bool => "/state/scalar/value/number/bool",
            Self::Int => "/state/scalar/value/number/int",
            Self::I16 => "/state/scalar/value/number/int/16",
            Self::I32 => "/state/scalar/value/number/int/32",
            Self::I64 => "/state/scalar/value/number/int/64",
            Self::UInt => "/state/scalar/value/number/uint",
            Self::U8 => "/state/scalar/value/number/uint/8",
            Self::U16 => "/state/scalar/value/number/uint/16",
            Self::U32 => "/state/scalar/value/number/uint/32",
            Self::U64 => "/state/scalar/value/number/uint/64",
            Self::Float => "/state/scalar/value/number/float",
            Self::F32 => "/state/scalar/value/number/float/32",
            Self::F64 => "/state/scalar/value/number/float/64",
            Self::Complex => "/state/scalar/value/number/complex",
            Self::C32 => "/state/scalar/value/number/complex/32",
            Self::C64 => "/state/scalar/value/number/complex/64",
        }
    }

    /// Whether every integer of 64 bits in its range is a number of this class, as it is not of floats.
    pub fn is_exact(self) -> bool {
        !matches!(self, Self::Float | Self::F32 | Self::F64 | Self::Complex | Self::C32 | Self::C64)
    }

    /// The class with the given path, if it is one of numbers (page 01 §2.1).
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.path() == path)
    }
}

impl fmt::Display for NumberType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.path())
    }
}

impl Number {
    /// A complex number of two parts that are real; of 32 bits each, if both are floats of 32 bits.
    pub fn complex(re: Number, im: Number) -> Self {
        match (re, im) {
            (Self::F32(re), Self::F32(im)) => Self::C32([re, im]),
            (re, im) => Self::C64([re.as_f64(), im.as_f64()]),
        }
    }

    /// The class of this number, never an abstract one (page 01 §2.1).
    pub fn class(&self) -> NumberType {
        match self {
            Self::Bool(_) => NumberType::Bool,
            Self::U8(_) => NumberType::U8,
            Self::U16(_) => NumberType::U16,
            Self::U32(_) => NumberType::U32,
            Self::U64(_) => NumberType::U64,
            Self::I16(_) => NumberType::I16,
            Self::I32(_) => NumberType::I32,
            Self::I64(_) => NumberType::I64,
            Self::F32(_) => NumberType::F32,
            Self::F64(_) => NumberType::F64,
            Self::C32(_) => NumberType::C32,
            Self::C64(_) => NumberType::C64,
        }
    }

    /// The number that a text spells (page 01 §7.5): an i64, a u64 above that, an f64 or a c64.
    pub fn parse(text: &str) -> Result<Number> {
        let text = text.trim();
        // A sign inside the text joins the two parts of a complex number, unless it belongs to an exponent.
        let bytes = text.as_bytes();
        let joint = (1..bytes.len())
            .rev()
            .find(|&i| matches!(bytes[i], b'+' | b'-') && !matches!(bytes[i - 1], b'e' | b'E'));
        if let Some(joint) = joint {
            let (re, im) = text.split_at(joint);
            let im = im.strip_suffix('i').ok_or_else(|| not_a_number(text))?;
            let im = match im {
                "+" => 1.0,
                "-" => -1.0,
                im => parse_float(im, text)?,
            };
            return Ok(Self::C64([parse_float(re, text)?, im]));
        }
        if text.contains(['.', 'e', 'E']) {
            return parse_float(text, text).map(Self::F64);
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_a_number(text));
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::I64(number));
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::U64(number));
        }
        Self::parse_whole_float(text).map(Self::F64).ok_or_else(|| {
            Error::bad_request(format_args!("an integer that fits neither i64 nor u64, and no float: {text}"))
        })
    }

    /// The float that a text of digits spells, without a point: all digits of one, or those that a cast to a string gives.
    pub fn parse_whole_float(text: &str) -> Option<f64> {
        let text = text.trim();
        let text = text.strip_prefix('+').unwrap_or(text);
        let digits = text.strip_prefix('-').unwrap_or(text).trim_start_matches('0');
        // The greatest float has fewer.
        if digits.len() > WHOLE_FLOAT_DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let float: f64 = text.parse().ok()?;
        let magnitude = float.abs();
        (digits == magnitude.to_string() || digits == format!("{magnitude:.0}")).then_some(float)
    }

    /// Whether this is an integer by its class; truth values are none.
    pub fn is_integer(self) -> bool {
        !matches!(self, Self::Bool(_) | Self::F32(_) | Self::F64(_) | Self::C32(_) | Self::C64(_))
    }

    /// Whether this number, or a part of it, is NaN.
    pub fn is_nan(self) -> bool {
        match self {
            Self::F32(x) => x.is_nan(),
            Self::F64(x) => x.is_nan(),
            Self::C32(parts) => parts.into_iter().any(f32::is_nan),
            Self::C64(parts) => parts.into_iter().any(f64::is_nan),
            _ => false,
        }
    }

    /// Whether this number, or both parts of it, are neither NaN nor infinite.
    pub fn is_finite(self) -> bool {
        match self {
            Self::F32(x) => x.is_finite(),
            Self::F64(x) => x.is_finite(),
            Self::C32(parts) => parts.into_iter().all(f32::is_finite),
            Self::C64(parts) => parts.into_iter().all(f64::is_finite),
            _ => true,
        }
    }

    /// This number, which is to be stored: a collection or a history with NaN or infinity could not be shown.
    ///
    /// # Errors
    /// 400 if it is not finite.
    pub fn to_store(self) -> Result<Self> {
        if self.is_finite() {
            return Ok(self);
        }
        Err(Error::bad_request(format_args!("{self} cannot be stored: JSON has no form for it")))
    }
}

fn not_a_number(text: &str) -> Error {
    Error::bad_request(format_args!("not a number: {text:?}"))
}

fn parse_float(part: &str, text: &str) -> Result<f64> {
    // Rust also reads "inf" and "nan", which are no numbers of the language.
    let numeric = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    if !part.bytes().all(numeric) {
        return Err(not_a_number(text));
    }
    let number: f64 = part.parse().map_err(|_| not_a_number(text))?;
    if number.is_finite() {
        Ok(number)
    } else {
        Err(Error::bad_request(format_args!("a number out of the range of f64: {text}")))
    }
}

macro_rules! from {
    ($($native:ty => $variant:ident),* $(,)?) => {
        $(impl From<$native> for Number {
            fn from(number: $native) -> Self {
                Self::$variant(number)
            }
        })*
    };
}

from! {
    bool => Bool, u8 => U8, u16 => U16, u32 => U32, u64 => U64, i16 => I16, i32 => I32, i64 => I64,
    f32 => F32, f64 => F64,
}

/// The text that a cast to a string gives (page 01 §2.7); floats are written without an exponent.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fn complex<T: fmt::Display>(f: &mut fmt::Formatter, [re, im]: [T; 2], nan: bool) -> fmt::Result {
            if nan {
                // The sign of NaN is never written, yet the parts need something between them.
                write!(f, "{re}+{im}i")
            } else {
                write!(f, "{re}{im:+}i")
            }
        }
        match *self {
            Self::Bool(x) => write!(f, "{x}"),
            Self::U8(x) => write!(f, "{x}"),
            Self::U16(x) => write!(f, "{x}"),
            Self::U32(x) => write!(f, "{x}"),
            Self::U64(x) => write!(f, "{x}"),
            Self::I16(x) => write!(f, "{x}"),
            Self::I32(x) => write!(f, "{x}"),
            Self::I64(x) => write!(f, "{x}"),
            Self::F32(x) => write!(f, "{x}"),
            Self::F64(x) => write!(f, "{x}"),
            Self::C32(parts) => complex(f, parts, parts[1].is_nan()),
            Self::C64(parts) => complex(f, parts, parts[1].is_nan()),
        }
    }
}

/// In JSON a bare number or the pair of §2.4, and an error if not finite; elsewhere the exact width (§1.10).
impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && !self.is_finite() {
            return Err(serde::ser::Error::custom(format_args!("the result is not a finite number: {self}")));
        }
        fn complex<S: Serializer>(
            serializer: S,
            class: NumberType,
            parts: &impl Serialize,
        ) -> std::result::Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(class.path(), parts)?;
            map.end()
        }
        match self {
            Self::Bool(x) => serializer.serialize_bool(*x),
            Self::U8(x) => serializer.serialize_u8(*x),
            Self::U16(x) => serializer.serialize_u16(*x),
            Self::U32(x) => serializer.serialize_u32(*x),
            Self::U64(x) => serializer.serialize_u64(*x),
            Self::I16(x) => serializer.serialize_i16(*x),
            Self::I32(x) => serializer.serialize_i32(*x),
            Self::I64(x) => serializer.serialize_i64(*x),
            Self::F32(x) => serializer.serialize_f32(*x),
            Self::F64(x) => serializer.serialize_f64(*x),
            Self::C32(parts) => complex(serializer, self.class(), parts),
            Self::C64(parts) => complex(serializer, self.class(), parts),
        }
    }
}

#[cfg(test)]
mod tests;
