//! Casts between numbers (page 01 §7.2), and exact conversions to native numbers.

use super::{Number, NumberType};

impl NumberType {
    /// The class that a cast of a `source` into this class gives: an abstract class takes its width from there.
    fn concrete(self, source: NumberType) -> NumberType {
        use NumberType::*;
        match self {
            Number => source,
            Int => match source {
                Bool | U8 | U16 | I16 => I16,
                U32 | I32 | F32 | C32 => I32,
                _ => I64,
            },
            UInt => match source {
                Bool | U8 => U8,
                U16 | I16 => U16,
                U32 | I32 | F32 | C32 => U32,
                _ => U64,
            },
            Float if source.is_wide() => F64,
            Float => F32,
            Complex if source.is_wide() => C64,
            Complex => C32,
            concrete => concrete,
        }
    }

    /// Whether the parts of this class have 64 bits, so that it becomes a float of 64 bits (§7.1).
    pub(super) fn is_wide(self) -> bool {
        matches!(self, Self::I64 | Self::U64 | Self::F64 | Self::C64)
    }
}

impl Number {
    /// This number as one of another class; never fails, and loses what the class cannot hold (page 01 §7.2).
    pub fn cast(self, into: NumberType) -> Number {
        match into.concrete(self.class()) {
            NumberType::Bool => Self::Bool(self.truthy()),
            NumberType::I16 => Self::I16(self.to_signed() as i16),
            NumberType::I32 => Self::I32(self.to_signed() as i32),
            NumberType::I64 => Self::I64(self.to_signed() as i64),
            NumberType::U8 => Self::U8(self.to_unsigned() as u8),
            NumberType::U16 => Self::U16(self.to_unsigned() as u16),
            NumberType::U32 => Self::U32(self.to_unsigned() as u32),
            NumberType::U64 => Self::U64(self.to_unsigned() as u64),
            NumberType::F32 => Self::F32(self.to_f32()),
            NumberType::F64 => Self::F64(self.as_f64()),
            NumberType::C32 => Self::C32(match self {
                Self::C32(parts) => parts,
                Self::C64(parts) => parts.map(|part| part as f32),
                real => [real.to_f32(), 0.0],
            }),
            NumberType::C64 => Self::C64(self.to_complex()),
            // An abstract class is never the answer of `concrete`.
            NumberType::Number
            | NumberType::Int
            | NumberType::UInt
            | NumberType::Float
            | NumberType::Complex => self,
        }
    }

    /// This number as one of another class, if that can hold exactly its value; a float may be rounded to a narrower one,
    /// unless it becomes infinite. A truth value is none of other numbers here.
    pub fn exactly(self, into: NumberType) -> Option<Number> {
        if into == NumberType::Number {
            return Some(self);
        }
        if matches!(self, Self::Bool(_)) && into != NumberType::Bool {
            return None;
        }
        self.held_as(into).or_else(|| match into {
            // The width that an abstract class takes from the number may be too narrow for it.
            NumberType::Int => self.held_as(NumberType::I64),
            NumberType::UInt => self.held_as(NumberType::U64),
            NumberType::Float => self.held_as(NumberType::F64),
            NumberType::Complex => self.held_as(NumberType::C64),
            _ => None,
        })
    }

    /// The cast, if it loses nothing but digits of a float.
    fn held_as(self, into: NumberType) -> Option<Number> {
        // A cast of a float of 32 bits saturates at integers of so many.
        let cast = match (self.cast(into), self) {
            (cast, Self::F32(_) | Self::C32(_)) if cast.integer().is_some() => {
                Self::C64(self.to_complex()).cast(into)
            }
            (cast, _) => cast,
        };
        if self.integer().is_some() || cast.integer().is_some() {
            return cast.collate(&self).is_eq().then_some(cast);
        }
        let is_real = cast.is_complex() || self.to_complex()[1] == 0.0;
        let is_rounded = cast.is_finite() || !self.is_finite();
        (is_real && is_rounded).then_some(cast)
    }

    /// The greatest number of a class of real numbers that is not greater than this number in the order of keys
    /// ([`Number::collate`]); none if all are greater. A float is rounded to a narrower one instead, as it is where it is
    /// stored, so that it is found there.
    ///
    /// # Panics
    /// If it is no class of real numbers of one width.
    pub fn at_most(self, class: NumberType) -> Option<Number> {
        let [re, im] = self.to_complex();
        let is_beyond = im != 0.0 || re.is_nan() || im.is_nan();
        let integer = |min: i128, max: i128| {
            // The cast saturates far beyond both ends.
            let floor = self.integer().unwrap_or(re.floor() as i128);
            let floor = if is_beyond { max } else { floor.min(max) };
            let number = match i64::try_from(floor) {
                Ok(floor) => Self::I64(floor),
                Err(_) => Self::U64(floor.max(0) as u64),
            };
            (floor >= min).then(|| number.cast(class))
        };
        match class {
            NumberType::Bool => integer(0, 1),
            NumberType::U8 => integer(0, u8::MAX.into()),
            NumberType::U16 => integer(0, u16::MAX.into()),
            NumberType::U32 => integer(0, u32::MAX.into()),
            NumberType::U64 => integer(0, u64::MAX.into()),
            NumberType::I16 => integer(i16::MIN.into(), i16::MAX.into()),
            NumberType::I32 => integer(i32::MIN.into(), i32::MAX.into()),
            NumberType::I64 => integer(i64::MIN.into(), i64::MAX.into()),
            NumberType::F32 | NumberType::F64 => Some(match self.held_as(class) {
                Some(held) => held,
                None if is_beyond => Self::F64(f64::INFINITY).cast(class),
                None => {
                    let cast = self.cast(class);
                    match (cast.collate(&self).is_gt(), cast) {
                        (true, Self::F32(x)) => Self::F32(x.next_down()),
                        (true, Self::F64(x)) => Self::F64(x.next_down()),
                        (_, cast) => cast,
                    }
                }
            }),
            other => panic!("{other} is no class of real numbers of one width"),
        }
    }

    /// This number as it is stored where numbers of any width are: a float of 32 bits is the one of 64 bits that is written
    /// alike, which is equal to it, as it would come back as that one anyway.
    pub fn widened(self) -> Number {
        match self {
            Self::F32(float) => Self::F64(float.to_string().parse().expect("the text of a float")),
            other => other,
        }
    }

    /// This number as a u64, if it is exactly one: `3`, `3.0` and `3+0i` are, `-1` and `3.5` are not.
    pub fn as_u64(self) -> Option<u64> {
        self.exact_integer()?.try_into().ok()
    }

    /// This number as an i64, if it is exactly one: `-3`, `-3.0` and `-3+0i` are, `3.5` is not.
    pub fn as_i64(self) -> Option<i64> {
        self.exact_integer()?.try_into().ok()
    }

    /// This number as the nearest f64; of a complex number, its real part (page 01 §7.2).
    pub fn as_f64(self) -> f64 {
        match self {
            Self::F32(x) | Self::C32([x, _]) => x.into(),
            Self::F64(x) | Self::C64([x, _]) => x,
            integer => integer.integer().unwrap_or_default() as f64,
        }
    }

    /// Whether this number is not zero (page 01 §7.2, "anything → bool"); NaN is not zero.
    pub fn truthy(self) -> bool {
        match self {
            Self::F32(x) => x != 0.0,
            Self::F64(x) => x != 0.0,
            Self::C32(parts) => parts != [0.0; 2],
            Self::C64(parts) => parts != [0.0; 2],
            integer => integer.integer() != Some(0),
        }
    }

    /// The value of an integer or a truth value; none of a float or complex number.
    pub(super) fn integer(self) -> Option<i128> {
        match self {
            Self::Bool(x) => Some(x.into()),
            Self::U8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::U64(x) => Some(x.into()),
            Self::I16(x) => Some(x.into()),
            Self::I32(x) => Some(x.into()),
            Self::I64(x) => Some(x.into()),
            Self::F32(_) | Self::F64(_) | Self::C32(_) | Self::C64(_) => None,
        }
    }

    /// The real and the imaginary part, as f64.
    pub(crate) fn to_complex(self) -> [f64; 2] {
        match self {
            Self::C32(parts) => parts.map(f64::from),
            Self::C64(parts) => parts,
            real => [real.as_f64(), 0.0],
        }
    }

    fn exact_integer(self) -> Option<i128> {
        if let Some(integer) = self.integer() {
            return Some(integer);
        }
        let [re, im] = self.to_complex();
        // The cast saturates far outside of the 64 bits that the callers ask for.
        (im == 0.0 && re.is_finite() && re.fract() == 0.0).then_some(re as i128)
    }

    fn to_f32(self) -> f32 {
        match self {
            Self::F32(x) | Self::C32([x, _]) => x,
            Self::F64(x) | Self::C64([x, _]) => x as f32,
            // Not by way of f64: rounding twice could give a neighbour of the nearest f32.
            integer => integer.integer().unwrap_or_default() as f32,
        }
    }

    /// The bits to cut a signed integer from: a float saturates at its own width first (§7.2).
    fn to_signed(self) -> i128 {
        match self {
            Self::F32(x) | Self::C32([x, _]) => (x as i32).into(),
            Self::F64(x) | Self::C64([x, _]) => (x as i64).into(),
            integer => integer.integer().unwrap_or_default(),
        }
    }

    /// The bits to cut an unsigned integer from: as [`Self::to_signed`], and a negative float is 0.
    fn to_unsigned(self) -> i128 {
        match self {
            Self::F32(x) | Self::C32([x, _]) => (x as u32).into(),
            Self::F64(x) | Self::C64([x, _]) => (x as u64).into(),
            integer => integer.integer().unwrap_or_default(),
        }
    }
}
