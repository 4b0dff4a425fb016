//! Equality, order and collation of numbers (page 01 §7.4): by value, both ways alike.

use std::cmp::Ordering;

use super::Number;

/// A real number with all of its digits.
#[derive(Clone, Copy)]
enum Real {
    Int(i128),
    F32(f32),
    F64(f64),
}

impl Real {
    const ZERO: Real = Real::Int(0);

    /// The order of two numbers, where an f32 equals the f64s that round to it (§7.4); none with NaN.
    ///
    /// Rounding keeps the order, so exactly one of less, equal and greater holds here too.
    fn compare(self, other: Real) -> Option<Ordering> {
        match (self, other) {
            (Self::F32(x), Self::F64(y)) => compare_rounded(x, y),
            (Self::F64(x), Self::F32(y)) => compare_rounded(y, x).map(Ordering::reverse),
            (x, y) => x.compare_exactly(y),
        }
    }

    /// The order of two numbers by their exact values; none with NaN.
    fn compare_exactly(self, other: Real) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(x), Self::Int(y)) => Some(x.cmp(&y)),
            (Self::Int(x), y) => compare_integer(x, y.to_f64()),
            (x, Self::Int(y)) => compare_integer(y, x.to_f64()).map(Ordering::reverse),
            (x, y) => x.to_f64().partial_cmp(&y.to_f64()),
        }
    }

    fn to_f64(self) -> f64 {
        match self {
            Self::Int(x) => x as f64,
            Self::F32(x) => x.into(),
            Self::F64(x) => x,
        }
    }

    fn is_nan(self) -> bool {
        self.to_f64().is_nan()
    }
}

fn compare_rounded(x: f32, y: f64) -> Option<Ordering> {
    let rounded = y as f32;
    if rounded.is_infinite() && y.is_finite() {
        // No finite number equals infinity.
        return f64::from(x).partial_cmp(&y);
    }
    x.partial_cmp(&rounded)
}

fn compare_integer(x: i128, y: f64) -> Option<Ordering> {
    if y.is_nan() {
        return None;
    }
    // The cast saturates where no integer of the language is, and a fraction decides only a tie.
    let whole = y.trunc();
    let fraction = if y.is_finite() { y - whole } else { 0.0 };
    Some(x.cmp(&(whole as i128)).then(0.0_f64.partial_cmp(&fraction)?))
}

/// Where a number stands among the keys of a collection.
enum Place {
    Real(Real),
    /// The squared norm decides, then the parts.
    Complex([f64; 3]),
    NaN,
}

impl Number {
    fn parts(self) -> [Real; 2] {
        match self {
            Self::F32(x) => [Real::F32(x), Real::ZERO],
            Self::F64(x) => [Real::F64(x), Real::ZERO],
            Self::C32(parts) => parts.map(Real::F32),
            Self::C64(parts) => parts.map(Real::F64),
            integer => [Real::Int(integer.integer().unwrap_or_default()), Real::ZERO],
        }
    }

    /// The order of two real numbers; none with a complex operand or NaN.
    fn compare(self, other: Number) -> Option<Ordering> {
        if self.is_complex() || other.is_complex() {
            return None;
        }
        let ([x, _], [y, _]) = (self.parts(), other.parts());
        x.compare(y)
    }

    pub(super) fn is_complex(self) -> bool {
        matches!(self, Self::C32(_) | Self::C64(_))
    }

    /// Whether this number is greater; false with a complex operand or NaN (page 01 §7.4).
    pub fn gt(self, other: Number) -> bool {
        self.compare(other).is_some_and(Ordering::is_gt)
    }

    /// Whether this number is greater or equal; false with a complex operand or NaN (page 01 §7.4).
    pub fn gte(self, other: Number) -> bool {
        self.compare(other).is_some_and(Ordering::is_ge)
    }

    /// Whether this number is less; false with a complex operand or NaN (page 01 §7.4).
    pub fn lt(self, other: Number) -> bool {
        self.compare(other).is_some_and(Ordering::is_lt)
    }

    /// Whether this number is less or equal; false with a complex operand or NaN (page 01 §7.4).
    pub fn lte(self, other: Number) -> bool {
        self.compare(other).is_some_and(Ordering::is_le)
    }

    /// The total order of keys (page 01 §7.4, "Collation"): exact values, whatever the width.
    ///
    /// Real numbers come first, those with a zero imaginary part among them; then the other complex numbers
    /// by squared norm, real part and imaginary part; then NaN. Only so does every number collate equal to
    /// itself in any other class.
    pub fn collate(&self, other: &Number) -> Ordering {
        match (self.place(), other.place()) {
            (Place::Real(x), Place::Real(y)) => {
                x.compare_exactly(y).unwrap_or(Ordering::Equal) // neither is NaN
            }
            (Place::Complex(x), Place::Complex(y)) => {
                x.partial_cmp(&y).unwrap_or(Ordering::Equal) // neither has NaN
            }
            (x, y) => x.rank().cmp(&y.rank()),
        }
    }

    fn place(self) -> Place {
        let [re, im] = self.parts();
        if re.is_nan() || im.is_nan() {
            Place::NaN
        } else if im.to_f64() == 0.0 {
            Place::Real(re)
        } else {
            let (re, im) = (re.to_f64(), im.to_f64());
            Place::Complex([re * re + im * im, re, im])
        }
    }
}

impl Place {
    fn rank(&self) -> u8 {
        match self {
            Self::Real(_) => 0,
            Self::Complex(_) => 1,
            Self::NaN => 2,
        }
    }
}

/// Equality by exact value across kinds, except that f32 and f64 compare in f32 (page 01 §7.4).
impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (self.parts(), other.parts());
        a.compare(c) == Some(Ordering::Equal) && b.compare(d) == Some(Ordering::Equal)
    }
}
