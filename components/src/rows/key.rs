//! The encoding of keys: bytes whose order is that of the values ([`Value::collate`], protocol page 02 §2.2).
//!
//! No encoded value is a prefix of another one of its type, so the keys that begin with some values are the ones whose
//! bytes begin with those of these values.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use super::schema::{ColumnType, Layout};
use crate::value::Value;
use crate::value::number::{Number, NumberType};

/// Keys of up to so many bytes lie where they are named: most do, and comparing them touches no other memory.
const INLINE_BYTES: usize = 22;

/// An encoded key, or the beginning of one.
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Shared(Arc<[u8]>),
}

impl Key {
    /// The least key, with which every key begins.
    pub const EMPTY: Key = Key(Repr::Inline { len: 0, bytes: [0; INLINE_BYTES] });

    /// The key of a row of a tree.
    ///
    /// # Panics
    /// If the row is too short, or a value is not of the type of its column.
    pub fn of_row(layout: &Layout, row: &[Value]) -> Self {
        Self::of_prefix(layout, &row[..layout.key_len])
    }

    /// The beginning of the keys whose first values are these.
    ///
    /// # Panics
    /// If there are more values than columns, or a value is not of the type of its column.
    pub fn of_prefix(layout: &Layout, values: &[Value]) -> Self {
        assert!(values.len() <= layout.types.len(), "a value for each column at most");
        let mut bytes = Vec::with_capacity(values.len() * 12);
        for (class, value) in layout.types.iter().zip(values) {
            encode(&mut bytes, *class, value);
        }
        bytes.into()
    }

    /// The least key after this one.
    pub fn next(&self) -> Self {
        [&self[..], &[0]].concat().into()
    }

    /// The least key that does not begin with this one; none if there is no such key.
    pub fn successor(&self) -> Option<Self> {
        let mut bytes = self.to_vec();
        while let Some(last) = bytes.pop() {
            if last < u8::MAX {
                bytes.push(last + 1);
                return Some(bytes.into());
            }
        }
        None
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(&bytes[..])
    }
}

impl From<&[u8]> for Key {
    fn from(content: &[u8]) -> Self {
        if content.len() > INLINE_BYTES {
            return Self(Repr::Shared(content.into()));
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..content.len()].copy_from_slice(content);
        Self(Repr::Inline { len: content.len() as u8, bytes })
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl Repr {
    /// The content of two keys that both lie where they are named. What is behind their ends is zero, so their order
    /// is that of the whole, and then that of their lengths.
    #[inline]
    fn compare(this: (&[u8; INLINE_BYTES], u8), that: (&[u8; INLINE_BYTES], u8)) -> Ordering {
        let word = |bytes: &[u8; INLINE_BYTES], at: usize| {
            u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let words = |bytes| [word(bytes, 0), word(bytes, 8), word(bytes, INLINE_BYTES - 8)];
        words(this.0).cmp(&words(that.0)).then(this.1.cmp(&that.1))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Inline { len, bytes }, Repr::Inline { len: other_len, bytes: other }) => {
                Repr::compare((bytes, *len), (other, *other_len))
            }
            _ => (**self).cmp(&**other),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A range of keys.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KeyRange {
    /// The least key in the range.
    pub start: Key,
    /// The least key beyond the range; none if nothing is.
    pub end: Option<Key>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Key::EMPTY, end: None }
    }

    /// No key.
    pub fn none() -> Self {
        Self { start: Key::EMPTY, end: Some(Key::EMPTY) }
    }

    /// The keys that begin with these bytes; of a whole key, that key alone.
    pub fn prefix(prefix: Key) -> Self {
        Self { end: prefix.successor(), start: prefix }
    }

    /// Whether a key is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        *key >= *self.start && self.end.as_ref().is_none_or(|end| *key < **end)
    }

    /// Whether there can be no key in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether some key can be in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The keys that are in both ranges.
    pub fn intersection(&self, other: &Self) -> Self {
        let start = (&self.start).max(&other.start).clone();
        let end = match (&self.end, &other.end) {
            (Some(this), Some(that)) => Some(this.min(that).clone()),
            (this, that) => this.as_ref().or(that.as_ref()).cloned(),
        };
        Self { start, end }
    }

    /// Whether every key of `other` is in this range.
    pub fn covers(&self, other: &Self) -> bool {
        other.is_empty() || self.intersection(other) == *other
    }
}

/// Append the encoding of a value.
///
/// # Panics
/// If the value is not of the type.
pub fn encode(bytes: &mut Vec<u8>, class: ColumnType, value: &Value) {
    match (class, value) {
        (ColumnType::Number(class), Value::Number(number)) => encode_number(bytes, class, *number),
        (ColumnType::String, Value::String(text)) => encode_bytes(bytes, text.as_bytes()),
        (ColumnType::Bytes, Value::Bytes(content)) => encode_bytes(bytes, content),
        (ColumnType::Id, Value::Id(id)) => encode_bytes(bytes, id.as_str().as_bytes()),
        (ColumnType::Link, Value::Link(link)) => encode_bytes(bytes, link.to_string().as_bytes()),
        (ColumnType::Tuple, Value::Tuple(items)) => encode_tuple(bytes, items),
        (ColumnType::None, Value::None) => {}
        (ColumnType::Value, value) => encode_any(bytes, value),
        (class, value) => panic!("{value:?} in a column of type {class:?}"),
    }
}

/// The ranks of kinds among one another, from 1: 0 ends a tuple.
fn encode_any(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => bytes.push(1),
        Value::Number(number) => {
            bytes.push(2);
            encode_number(bytes, NumberType::Number, *number);
        }
        Value::Bytes(content) => {
            bytes.push(3);
            encode_bytes(bytes, content);
        }
        Value::Id(id) => {
            bytes.push(4);
            encode_bytes(bytes, id.as_str().as_bytes());
        }
        Value::String(text) => {
            bytes.push(5);
            encode_bytes(bytes, text.as_bytes());
        }
        Value::Link(link) => {
            bytes.push(6);
            encode_bytes(bytes, link.to_string().as_bytes());
        }
        Value::Tuple(items) => {
            bytes.push(7);
            encode_tuple(bytes, items);
        }
    }
}

fn encode_tuple(bytes: &mut Vec<u8>, items: &[Value]) {
    for item in items {
        encode_any(bytes, item);
    }
    bytes.push(0);
}

/// Zero bytes are escaped, so that two of them can end the text before everything that is longer.
pub(super) fn encode_bytes(bytes: &mut Vec<u8>, content: &[u8]) {
    for part in content.split_inclusive(|byte| *byte == 0) {
        bytes.extend_from_slice(part);
        if part.last() == Some(&0) {
            bytes.push(u8::MAX);
        }
    }
    bytes.extend_from_slice(&[0, 0]);
}

fn encode_number(bytes: &mut Vec<u8>, class: NumberType, number: Number) {
    match (class, number) {
        (NumberType::Bool, Number::Bool(x)) => bytes.push(x.into()),
        (NumberType::U8, Number::U8(x)) => bytes.push(x),
        (NumberType::U16, Number::U16(x)) => bytes.extend(x.to_be_bytes()),
        (NumberType::U32, Number::U32(x)) => bytes.extend(x.to_be_bytes()),
        (NumberType::U64, Number::U64(x)) => bytes.extend(x.to_be_bytes()),
        (NumberType::I16, Number::I16(x)) => bytes.extend((x ^ i16::MIN).to_be_bytes()),
        (NumberType::I32, Number::I32(x)) => bytes.extend((x ^ i32::MIN).to_be_bytes()),
        (NumberType::I64, Number::I64(x)) => bytes.extend((x ^ i64::MIN).to_be_bytes()),
        (NumberType::F32, Number::F32(x)) => encode_f32(bytes, x),
        (NumberType::F64, Number::F64(x)) => encode_f64(bytes, x),
        (
            NumberType::Number
            | NumberType::Int
            | NumberType::UInt
            | NumberType::Float
            | NumberType::Complex
            | NumberType::C32
            | NumberType::C64,
            number,
        ) => encode_any_number(bytes, number),
        (class, number) => panic!("{number:?} in a column of type {class}"),
    }
}

/// Any number by its exact value: real numbers, then complex ones, then NaN ([`Number::collate`]).
fn encode_any_number(bytes: &mut Vec<u8>, number: Number) {
    let (re, im) = match number {
        Number::C32([re, im]) => (f64::from(re), f64::from(im)),
        Number::C64([re, im]) => (re, im),
        Number::F32(x) => (f64::from(x), 0.0),
        Number::F64(x) => (x, 0.0),
        integer => {
            let exact = match integer {
                Number::U64(x) => i128::from(x),
                other => i128::from(other.as_i64().expect("an integer of 64 bits")),
            };
            bytes.push(0);
            return encode_integer(bytes, exact);
        }
    };
    if re.is_nan() || im.is_nan() {
        bytes.push(2);
    } else if im == 0.0 {
        bytes.push(0);
        encode_f64(bytes, re);
        bytes.extend([0, 0]);
    } else {
        bytes.push(1);
        for part in [re * re + im * im, re, im] {
            encode_f64(bytes, part);
        }
    }
}

/// The greatest float that is not above the integer, and how far above it the integer is: less than the distance
/// to the next float, which is 2,048 at most.
fn encode_integer(bytes: &mut Vec<u8>, integer: i128) {
    let mut float = integer as f64;
    if float as i128 > integer {
        float = float.next_down();
    }
    encode_f64(bytes, float);
    let rest = u16::try_from(integer - float as i128).expect("floats of 64 bits are at most 2,048 apart");
    bytes.extend(rest.to_be_bytes());
}

/// Negative floats have their bits flipped, so that the greater comes later; zeros are equal; NaN comes last.
fn encode_f64(bytes: &mut Vec<u8>, x: f64) {
    let bits = if x.is_nan() { f64::NAN.to_bits() & (u64::MAX >> 1) } else { (x + 0.0).to_bits() };
    let flipped = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    bytes.extend(flipped.to_be_bytes());
}

fn encode_f32(bytes: &mut Vec<u8>, x: f32) {
    let bits = if x.is_nan() { f32::NAN.to_bits() & (u32::MAX >> 1) } else { (x + 0.0).to_bits() };
    let flipped = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    bytes.extend(flipped.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::name::{Id, Link};
    use proptest::prelude::*;

    fn any_number() -> impl Strategy<Value = Number> {
        prop_oneof![
            any::<bool>().prop_map(Number::Bool),
            any::<u8>().prop_map(Number::U8),
            any::<i16>().prop_map(Number::I16),
            any::<u64>().prop_map(Number::U64),
            any::<i64>().prop_map(Number::I64),
            (i64::MAX - 4096..=i64::MAX).prop_map(Number::I64),
            (-3i64..3).prop_map(Number::I64),
            prop::num::f64::ANY.prop_map(Number::F64),
            prop::num::f32::ANY.prop_map(Number::F32),
            (-3i32..3).prop_map(|x| Number::F64(f64::from(x) / 2.0)),
            [prop::num::f64::ANY, prop::num::f64::ANY].prop_map(Number::C64),
            (-3i16..3, -1i16..2).prop_map(|(re, im)| Number::C32([re.into(), im.into()])),
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any_number().prop_map(Value::Number),
            "[a-c\u{0}é]{0,3}".prop_map(|text| Value::String(text.into())),
            prop::collection::vec(0u8..3, 0..4).prop_map(|bytes| Value::Bytes(bytes.into())),
            "[a-c]{1,3}".prop_map(|name| Value::Id(Id::parse(&name).unwrap())),
            "/[a-c]{1,2}".prop_map(|path| Value::Link(Link::parse(&path).unwrap())),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(|items| Value::Tuple(items.into()))
        })
    }

    fn encoded(class: ColumnType, value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, class, value);
        bytes
    }

    /// The order that the encoding must have; the one of norms is only defined where they are finite.
    fn is_defined(value: &Value) -> bool {
        match value {
            Value::Number(Number::C64([re, im])) => (re * re + im * im).is_finite(),
            Value::Number(Number::C32(_)) => true,
            Value::Tuple(items) => items.iter().all(is_defined),
            _ => true,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn keys_are_ordered_like_their_bytes(
            a in prop::collection::vec(0u8..3, 0..30),
            b in prop::collection::vec(0u8..3, 0..30),
        ) {
            let (this, that) = (Key::from(&a[..]), Key::from(&b[..]));
            prop_assert_eq!(this.cmp(&that), a.cmp(&b));
            prop_assert_eq!(this == that, a == b);
        }

        #[test]
        fn encoded_values_are_ordered_like_values(a in any_value(), b in any_value()) {
            prop_assume!(is_defined(&a) && is_defined(&b));
            let order = encoded(ColumnType::Value, &a).cmp(&encoded(ColumnType::Value, &b));
            prop_assert_eq!(order, a.collate(&b));
        }

        #[test]
        fn no_encoding_is_a_prefix_of_another(a in any_value(), b in any_value()) {
            let (a, b) = (encoded(ColumnType::Value, &a), encoded(ColumnType::Value, &b));
            prop_assert!(a == b || !b.starts_with(&a));
        }

        #[test]
        fn numbers_of_one_width_are_ordered_like_numbers(a in any_number(), b in any_number()) {
            for class in NumberType::ALL {
                let (a, b) = (a.cast(class), b.cast(class));
                let (a, b) = (Value::Number(a), Value::Number(b));
                prop_assume!(is_defined(&a) && is_defined(&b));
                let class = ColumnType::Number(class);
                prop_assert_eq!(encoded(class, &a).cmp(&encoded(class, &b)), a.collate(&b));
            }
        }

        #[test]
        fn a_prefix_covers_just_the_keys_that_begin_with_it(
            prefix in prop::collection::vec(250u8.., 0..3), key in prop::collection::vec(250u8.., 0..4),
        ) {
            let range = KeyRange::prefix(prefix.clone().into());
            prop_assert_eq!(range.contains(&key), key.starts_with(&prefix));
        }
    }

    #[test]
    fn ranges_intersect() {
        let range = |start: u8, end: u8| KeyRange { start: vec![start].into(), end: Some(vec![end].into()) };
        assert!(range(1, 3).overlaps(&range(2, 4)));
        assert!(!range(1, 3).overlaps(&range(3, 4)));
        assert!(KeyRange::all().covers(&range(1, 3)) && !range(1, 3).covers(&KeyRange::all()));
        assert!(range(3, 1).is_empty());
    }
}
