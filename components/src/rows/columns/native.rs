//! Numbers as memory and keys have them: each has a rank, an unsigned integer of its own width, in the order of keys.

use std::ops::Bound;

use arrow_buffer::ArrowNativeType;
use serde::Serialize;

use crate::rows::bound::ValueRange;
use crate::value::Value;
use crate::value::number::Number;

/// A number of one width.
pub(super) trait Native: ArrowNativeType + Serialize {
    /// Unsigned and as wide as the number; its bytes, the most significant one first, are the key of the number.
    type Rank: Copy + Ord + Into<u64> + TryFrom<u64>;

    /// The greatest rank that there is.
    const RANK_MAX: u64;

    /// The place of this number in the order of keys: zeros are equal, and so is NaN, which comes last.
    fn rank(self) -> Self::Rank;

    /// A number of a rank that some number has.
    fn from_rank(rank: Self::Rank) -> Self;

    /// The test whether a number has one of the ranks from `start` to `end`, which the compiler can do of many at once.
    fn is_within(start: Self::Rank, end: Self::Rank) -> impl Fn(Self) -> bool;

    /// Append the key of this number.
    fn encode_key(self, bytes: &mut Vec<u8>);

    /// The rank of the number whose key the bytes begin with; none if they are too few.
    fn rank_of_key(bytes: &[u8]) -> Option<Self::Rank>;

    /// The number with its width.
    fn number(self) -> Number;

    /// The number, if it has this width.
    fn of(number: Number) -> Option<Self>;

    /// Whether JSON has a form for it.
    fn is_finite(self) -> bool;
}

macro_rules! native {
    ($native:ident, $variant:ident, $rank:ident, { $($own:item)* }) => {
        impl Native for $native {
            type Rank = $rank;

            const RANK_MAX: u64 = $rank::MAX as u64;

            $(#[inline] $own)*

            #[inline]
            fn encode_key(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.rank().to_be_bytes());
            }

            fn rank_of_key(bytes: &[u8]) -> Option<$rank> {
                Some($rank::from_be_bytes(*bytes.first_chunk()?))
            }

            #[inline]
            fn number(self) -> Number {
                Number::$variant(self)
            }

            fn of(number: Number) -> Option<Self> {
                match number {
                    Number::$variant(number) => Some(number),
                    _ => None,
                }
            }
        }
    };
}

macro_rules! integer {
    ($native:ident, $variant:ident, $rank:ident) => {
        native!($native, $variant, $rank, {
            fn rank(self) -> $rank {
                (self as $rank).wrapping_sub($native::MIN as $rank)
            }

            fn from_rank(rank: $rank) -> Self {
                rank.wrapping_add($native::MIN as $rank) as $native
            }

            fn is_within(start: $rank, end: $rank) -> impl Fn(Self) -> bool {
                // One comparison: what is below the start wraps around to above the end.
                move |number| number.rank().wrapping_sub(start) <= end - start
            }

            fn is_finite(self) -> bool {
                true
            }
        });
    };
}

macro_rules! float {
    ($native:ident, $variant:ident, $rank:ident, $signed:ident) => {
        native!($native, $variant, $rank, {
            fn rank(self) -> $rank {
                const NAN: $rank = $native::NAN.to_bits() & ($rank::MAX >> 1);
                let bits = if self.is_nan() { NAN } else { (self + 0.0).to_bits() };
                // All bits of a negative number are flipped, of another one just the sign.
                bits ^ (((bits as $signed) >> ($rank::BITS - 1)) as $rank | 1 << ($rank::BITS - 1))
            }

            fn from_rank(rank: $rank) -> Self {
                let is_negative = rank >> ($rank::BITS - 1) == 0;
                $native::from_bits(if is_negative { !rank } else { rank ^ 1 << ($rank::BITS - 1) })
            }

            fn is_within(start: $rank, end: $rank) -> impl Fn(Self) -> bool {
                let has_nan = (start..=end).contains(&$native::NAN.rank());
                // The rank below that of zero would be the one of negative zero, which is equal to it.
                let end = if end == (0.0 as $native).rank() - 1 { end - 1 } else { end };
                let end = Self::from_rank(end.min($native::INFINITY.rank()));
                // Beyond infinity the start is NaN, and no number is greater.
                let start = Self::from_rank(start.max($native::NEG_INFINITY.rank()));
                move |number| (number >= start) & (number <= end) | (has_nan & number.is_nan())
            }

            fn is_finite(self) -> bool {
                self.is_finite()
            }
        });
    };
}

integer!(u8, U8, u8);
integer!(u16, U16, u16);
integer!(u32, U32, u32);
integer!(u64, U64, u64);
integer!(i16, I16, u16);
integer!(i32, I32, u32);
integer!(i64, I64, u64);
float!(f32, F32, u32, i32);
float!(f64, F64, u64, i64);

/// The least and the greatest rank of the numbers in a range; `Some(None)` if there are none, and none if a bound is not
/// of this width.
pub(super) fn ranks<T: Native>(range: &ValueRange) -> Option<Option<(T::Rank, T::Rank)>> {
    let rank = |value: &Value| match value {
        Value::Number(number) => Some(T::of(*number)?.rank().into()),
        _ => None,
    };
    let start: Option<u64> = match &range.start {
        Bound::Included(value) => Some(rank(value)?),
        Bound::Excluded(value) => rank(value)?.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end: Option<u64> = match &range.end {
        Bound::Included(value) => Some(rank(value)?),
        Bound::Excluded(value) => rank(value)?.checked_sub(1),
        Bound::Unbounded => Some(T::RANK_MAX),
    };
    Some(start.zip(end).filter(|(start, end)| start <= end).map(|(start, end)| {
        let narrow = |rank: u64| T::Rank::try_from(rank).ok().expect("a rank of this width");
        (narrow(start), narrow(end))
    }))
}
