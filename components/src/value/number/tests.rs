use std::cmp::Ordering;

use proptest::prelude::*;
use serde_json::json;

use crate::ErrorKind;

use super::Number::*;
use super::{Number, NumberType};

/// The same number of the same class, bit for bit except for NaN.
fn same(x: Number, y: Number) -> bool {
    x.class() == y.class() && format!("{x:?}") == format!("{y:?}")
}

#[track_caller]
fn assert_same(x: Number, y: Number) {
    assert!(same(x, y), "{x:?} is not {y:?}");
}

#[track_caller]
fn assert_gives(result: crate::Result<Number>, expected: Number) {
    assert_same(result.expect("a number"), expected);
}

#[track_caller]
fn assert_bad(result: crate::Result<Number>) {
    assert_eq!(result.expect_err("an error").kind(), ErrorKind::BadRequest);
}

fn close(x: Number, y: [f64; 2]) -> bool {
    let [re, im] = x.to_complex();
    (re - y[0]).abs() < 1e-6 && (im - y[1]).abs() < 1e-6
}

#[test]
fn paths_name_every_class() {
    for class in NumberType::ALL {
        assert_eq!(NumberType::from_path(class.path()), Some(class));
        assert_eq!(class.to_string(), class.path());
    }
    assert_eq!(NumberType::I64.path(), "/state/scalar/value/number/int/64");
    for unknown in ["", "/state/scalar/value", "/state/scalar/value/number/int/8"] {
        assert_eq!(NumberType::from_path(unknown), None);
    }
}

/// Section 11, lines 2 to 8; line 8 compares kinds of value, so here stays only that 1 is 1.
#[test]
fn self_check() {
    assert_gives(I64(7).div(I64(2)), I64(3));
    assert_gives(I64(7).div(F64(2.0)), F64(3.5));
    assert_bad(F64(1.5).div(I64(0)));
    assert_gives(Bool(true).add(I64(2)), I64(3));
    assert_gives(Bool(true).add(Bool(true)), Bool(true));
    assert_gives(I64(2).pow(I64(-1)), F64(0.5));
    assert_eq!(I64(1), Number::parse("1").unwrap());
}

/// The table of §7.1, with u32 and i32 in a width that holds both.
#[test]
fn promotion() {
    let one =
        [Bool(true), U8(1), U32(1), U64(1), I16(1), I32(1), I64(1), F32(1.0), F64(1.0), C32([1.0, 0.0])];
    use NumberType as T;
    let table = [
        [T::Bool, T::U8, T::U32, T::U64, T::I16, T::I32, T::I64, T::F32, T::F64, T::C32],
        [T::U8, T::U8, T::U32, T::U64, T::I16, T::I32, T::I64, T::F32, T::F64, T::C32],
        [T::U32, T::U32, T::U32, T::U64, T::I64, T::I64, T::I64, T::F32, T::F64, T::C32],
        [T::U64, T::U64, T::U64, T::U64, T::I64, T::I64, T::I64, T::F64, T::F64, T::C64],
        [T::I16, T::I16, T::I64, T::I64, T::I16, T::I32, T::I64, T::F32, T::F64, T::C32],
        [T::I32, T::I32, T::I64, T::I64, T::I32, T::I32, T::I64, T::F32, T::F64, T::C32],
        [T::I64, T::I64, T::I64, T::I64, T::I64, T::I64, T::I64, T::F64, T::F64, T::C64],
        [T::F32, T::F32, T::F32, T::F64, T::F32, T::F32, T::F64, T::F32, T::F64, T::C32],
        [T::F64, T::F64, T::F64, T::F64, T::F64, T::F64, T::F64, T::F64, T::F64, T::C64],
        [T::C32, T::C32, T::C32, T::C64, T::C32, T::C32, T::C64, T::C32, T::C64, T::C32],
    ];
    for (x, row) in one.into_iter().zip(table) {
        for (y, class) in one.into_iter().zip(row) {
            for result in [x.add(y), x.sub(y), x.mul(y), x.div(y)] {
                assert_eq!(result.unwrap().class(), class, "{x:?} and {y:?}");
            }
        }
    }
    assert_gives(U16(40_000).add(I16(-1)), I32(39_999));
    assert_gives(U32(u32::MAX).add(I32(1)), I64(4_294_967_296));
    assert_gives(U16(9).sub(U64(1)), U64(8));
    assert_gives(U64(5).add(I16(-7)), I64(-2));
    assert_bad(U64(u64::MAX).add(I64(-1)));
    assert_gives(C32([1.0, 2.0]).add(C64([0.5, 0.5])), C64([1.5, 2.5]));
}

#[test]
fn casts() {
    use NumberType as T;
    for (number, class, expected) in [
        // float → int, uint
        (F64(2.9), T::I64, I64(2)),
        (F64(-2.9), T::I64, I64(-2)),
        (F64(1e300), T::I64, I64(i64::MAX)),
        (F64(-1e300), T::I64, I64(i64::MIN)),
        (F64(1e300), T::U64, U64(u64::MAX)),
        (F32(1e10), T::I32, I32(i32::MAX)),
        (F32(1e10), T::I64, I64(i32::MAX.into())),
        (F32(1e10), T::U64, U64(u32::MAX.into())),
        (F64(f64::NAN), T::I16, I16(0)),
        (F32(f32::NAN), T::U8, U8(0)),
        (F64(-5.0), T::U8, U8(0)),
        // integer → narrower
        (I64(300), T::U8, U8(44)),
        (U64(300), T::U8, U8(44)),
        (F64(300.0), T::U8, U8(44)),
        (I64(70_000), T::I16, I16(4464)),
        // int ↔ uint
        (I64(-5), T::U64, U64(18_446_744_073_709_551_611)),
        (I16(-5), T::U64, U64(18_446_744_073_709_551_611)),
        (U64(u64::MAX), T::I64, I64(-1)),
        (U32(u32::MAX), T::I32, I32(-1)),
        (U32(u32::MAX), T::I64, I64(4_294_967_295)),
        // exact to f64, nearest to f32
        (I32(16_777_217), T::F64, F64(16_777_217.0)),
        (U32(u32::MAX), T::F64, F64(4_294_967_295.0)),
        (I32(16_777_217), T::F32, F32(16_777_216.0)),
        (F64(0.1), T::F32, F32(0.1)),
        // complex → real
        (C64([2.5, 9.0]), T::F64, F64(2.5)),
        (C64([2.5, 9.0]), T::I32, I32(2)),
        (C32([-2.5, 9.0]), T::U8, U8(0)),
        (C64([2.5, 9.0]), T::C32, C32([2.5, 9.0])),
        // anything → bool
        (F64(0.5), T::Bool, Bool(true)),
        (F64(-0.0), T::Bool, Bool(false)),
        (F64(f64::NAN), T::Bool, Bool(true)),
        (C64([0.0, 1.0]), T::Bool, Bool(true)),
        (C32([0.0, 0.0]), T::Bool, Bool(false)),
        (U8(0), T::Bool, Bool(false)),
        // bool → anything
        (Bool(false), T::C64, C64([0.0, 0.0])),
        (Bool(true), T::Complex, C32([1.0, 0.0])),
        (Bool(true), T::F64, F64(1.0)),
        // to an abstract class
        (U8(7), T::Number, U8(7)),
        (I64(1), T::Float, F64(1.0)),
        (I16(1), T::Float, F32(1.0)),
        (F64(1.5), T::Int, I64(1)),
        (F32(1.5), T::Int, I32(1)),
        (Bool(true), T::UInt, U8(1)),
        (Bool(true), T::Int, I16(1)),
        (U8(200), T::Int, I16(200)),
        (U64(3), T::Int, I64(3)),
        (I16(-1), T::UInt, U16(u16::MAX)),
        (C32([1.5, 2.0]), T::Float, F32(1.5)),
        (C64([1.5, 2.0]), T::UInt, U64(1)),
        (U64(3), T::Complex, C64([3.0, 0.0])),
        (C64([1.5, 2.0]), T::Complex, C64([1.5, 2.0])),
    ] {
        assert_same(number.cast(class), expected);
    }
}

#[test]
fn exact_conversions() {
    assert_eq!(U64(u64::MAX).as_u64(), Some(u64::MAX));
    assert_eq!(U64(u64::MAX).as_i64(), None);
    assert_eq!(I64(-1).as_u64(), None);
    assert_eq!(F64(3.0).as_u64(), Some(3));
    assert_eq!(F64(3.5).as_i64(), None);
    assert_eq!(F64(18_446_744_073_709_551_616.0).as_u64(), None);
    assert_eq!(F64(9_223_372_036_854_775_808.0).as_i64(), None);
    assert_eq!(F64(f64::INFINITY).as_u64(), None);
    assert_eq!(F64(f64::NAN).as_i64(), None);
    assert_eq!(C32([2.0, 0.0]).as_i64(), Some(2));
    assert_eq!(C32([2.0, 1.0]).as_i64(), None);
    assert_eq!(Bool(true).as_u64(), Some(1));
    assert_eq!(C64([2.5, 1.0]).as_f64(), 2.5);
}

#[test]
fn truth_values() {
    let (t, f) = (Bool(true), Bool(false));
    assert_gives(t.add(f), t);
    assert_gives(t.sub(t), f);
    assert_gives(f.sub(t), t);
    assert_gives(t.mul(f), f);
    assert_gives(f.div(t), f);
    assert_bad(t.div(f));
    assert_gives(f.pow(I64(2)), f);
    assert_gives(f.pow(F64(0.0)), t);
    assert_gives(t.pow(C64([1.0, 1.0])), t);
    assert_same(I64(2).and(F64(0.0)), f);
    assert_same(I64(2).and(C64([0.0, 1.0])), t);
    assert_same(I64(0).or(F64(0.5)), t);
    assert_same(I64(2).xor(F64(0.5)), f);
    assert_same(I64(2).xor(U8(0)), t);
    assert_same(I64(2).not(), f);
    assert_same(F64(0.0).not(), t);
}

#[test]
fn integer_arithmetic() {
    assert_gives(I64(-7).div(I64(2)), I64(-3));
    for zero in [Bool(false), U8(0), I64(0), F32(0.0), F64(-0.0), C64([0.0, 0.0])] {
        for number in [Bool(true), U8(1), I64(1), F64(1.0), C64([1.0, 1.0])] {
            assert_bad(number.div(zero));
        }
    }
    assert_bad(I64(i64::MIN).div(I64(-1)));
    assert_bad(I16(i16::MIN).div(I16(-1)));
    assert_bad(I64(i64::MAX).add(I64(1)));
    assert_bad(U8(255).add(Bool(true)));
    assert_bad(U8(1).sub(U8(2)));
    assert_bad(U64(u64::MAX).mul(U64(u64::MAX)));
    assert_bad(I16(300).mul(I16(300)));
    assert_gives(I16(300).mul(I32(300)), I32(90_000));
}

#[test]
fn powers() {
    // integer base, natural exponent
    assert_gives(I64(2).pow(I64(10)), I64(1024));
    assert_gives(U8(2).pow(U64(7)), U8(128));
    assert_gives(I64(0).pow(I64(0)), I64(1));
    assert_gives(I16(-1).pow(U64(u64::MAX)), I16(-1));
    assert_gives(I64(1).pow(U64(u64::MAX)), I64(1));
    assert_gives(U32(0).pow(U64(u64::MAX)), U32(0));
    assert_gives(I64(-2).pow(I64(63)), I64(i64::MIN));
    assert_gives(I64(5).pow(Bool(true)), I64(5));
    assert_bad(U8(2).pow(U8(8)));
    assert_bad(I64(2).pow(I64(i64::MAX)));
    assert_bad(U64(2).pow(U64(64)));
    // integer base, negative or float exponent
    assert_gives(I32(2).pow(I64(-1)), F32(0.5));
    assert_gives(I64(4).pow(F32(0.5)), F64(2.0));
    assert_gives(U8(4).pow(F32(0.5)), F32(2.0));
    assert_gives(U8(4).pow(F64(0.5)), F64(2.0));
    // float base
    assert_gives(F32(1.5).pow(I64(2)), F32(2.25));
    assert_gives(F32(4.0).pow(F64(0.5)), F64(2.0));
    assert_gives(F64(2.0).pow(U8(3)), F64(8.0));
    // complex base or exponent
    assert_gives(C64([0.0, 1.0]).pow(I64(2)), C64([-1.0, 0.0]));
    assert_gives(C32([1.0, 1.0]).pow(I64(-1)), C32([0.5, -0.5]));
    assert_gives(C32([3.0, 0.0]).pow(I64(0)), C32([1.0, 0.0]));
    assert!(close(C64([3.0, 4.0]).pow(F64(0.5)).unwrap(), [2.0, 1.0]));
    assert_eq!(C32([3.0, 4.0]).pow(F64(0.5)).unwrap().class(), NumberType::C64);
    let i = C64([0.0, 1.0]);
    assert!(close(i.pow(i).unwrap(), [(-std::f64::consts::FRAC_PI_2).exp(), 0.0]));
    let e = F64(std::f64::consts::E);
    assert!(close(e.pow(C64([0.0, std::f64::consts::PI])).unwrap(), [-1.0, 0.0]));
    assert!(close(I64(-1).pow(C32([0.5, 0.0])).unwrap(), [0.0, 1.0]));
    assert_gives(F32(0.0).pow(C32([1.0, 1.0])), C32([0.0, 0.0]));
    assert_bad(C64([0.0, 0.0]).pow(I64(-1)));
    assert_bad(I64(0).pow(C64([-1.0, 1.0])));
}

#[test]
fn complex_arithmetic() {
    let (x, y) = (C64([1.0, 2.0]), C64([3.0, 4.0]));
    assert_gives(x.sub(y), C64([-2.0, -2.0]));
    assert_gives(x.mul(y), C64([-5.0, 10.0]));
    assert_gives(x.div(y), C64([0.44, 0.08]));
    assert_gives(x.mul(I64(2)), C64([2.0, 4.0]));
    assert_gives(C64([1e300, 1e300]).div(C64([1e300, 1e300])), C64([1.0, 0.0]));
    assert_gives(C64([1e-300, 0.0]).div(C64([0.0, 1e-300])), C64([0.0, -1.0]));
}

#[test]
fn absolute_values() {
    assert_gives(C64([3.0, 4.0]).abs(), F64(5.0));
    assert_gives(C32([3.0, 4.0]).abs(), F32(5.0));
    assert_gives(I16(-5).abs(), I16(5));
    assert_gives(U8(5).abs(), U8(5));
    assert_gives(F32(-0.5).abs(), F32(0.5));
    assert_gives(Bool(true).abs(), Bool(true));
    assert_bad(I64(i64::MIN).abs());
    assert_bad(I16(i16::MIN).abs());
}

#[test]
fn equality() {
    assert_eq!(F32(0.1), F64(0.1));
    assert_eq!(F64(0.1), F32(0.1));
    assert_eq!(C32([0.1, 0.2]), C64([0.1, 0.2]));
    assert_eq!(I64(1), U8(1));
    assert_eq!(Bool(true), I64(1));
    assert_eq!(F64(0.0), Bool(false));
    assert_eq!(F64(0.0), F64(-0.0));
    assert_eq!(F64(2.0), C32([2.0, 0.0]));
    for (x, y) in [
        (I64(2), F64(2.5)),
        (F64(2.0), C64([2.0, 5.0])),
        (Bool(true), I64(2)),
        (I64(-1), U64(u64::MAX)),
        (I64(9_007_199_254_740_993), F64(9_007_199_254_740_992.0)),
        (U64(u64::MAX), F64(18_446_744_073_709_551_616.0)),
        (I32(16_777_217), F32(16_777_216.0)),
        (F32(f32::INFINITY), F64(1e300)),
        (F64(f64::NAN), F64(f64::NAN)),
        (C32([f32::NAN, 0.0]), C32([f32::NAN, 0.0])),
    ] {
        assert_ne!(x, y);
        assert_ne!(y, x);
    }
}

#[test]
fn order() {
    assert!(F64(2.5).gt(I64(2)) && !I64(2).gte(F64(2.5)) && I64(2).lt(F64(2.5)));
    assert!(F64(-2.5).lt(I64(-2)) && I64(-2).gt(F64(-2.5)));
    assert!(U64(u64::MAX).gt(I64(-1)) && I64(-1).lt(U64(u64::MAX)));
    assert!(F64(f64::INFINITY).gt(U64(u64::MAX)) && F64(f64::NEG_INFINITY).lt(I64(i64::MIN)));
    assert!(Bool(true).gte(I64(1)) && Bool(true).lte(I64(1)));
    assert!(F32(0.1).gte(F64(0.1)) && F32(0.1).lte(F64(0.1)) && !F32(0.1).gt(F64(0.1)));
    for (x, y) in [(C64([1.0, 0.0]), I64(1)), (F64(f64::NAN), I64(1)), (F64(f64::NAN), F64(f64::NAN))] {
        for (x, y) in [(x, y), (y, x)] {
            assert!(!x.gt(y) && !x.gte(y) && !x.lt(y) && !x.lte(y));
        }
    }
}

#[test]
fn collation() {
    let sorted = [
        F64(f64::NEG_INFINITY),
        C64([-5.0, 0.0]),
        I64(-1),
        F32(0.0),
        F64(0.1),
        F32(0.1),
        Bool(true),
        I64(2),
        F64(2.5),
        F64(9_007_199_254_740_992.0),
        I64(9_007_199_254_740_993),
        U64(u64::MAX),
        F64(f64::INFINITY),
        C32([1.0, 1.0]),
        C64([-3.0, 4.0]),
        C64([3.0, -4.0]),
        C64([3.0, 4.0]),
        C64([f64::NAN, 0.0]),
    ];
    for (i, x) in sorted.iter().enumerate() {
        for (j, y) in sorted.iter().enumerate() {
            assert_eq!(x.collate(y), i.cmp(&j), "{x:?} and {y:?}");
        }
    }
    assert_eq!(I64(2).collate(&C32([2.0, 0.0])), Ordering::Equal);
    assert_eq!(F64(0.0).collate(&F32(-0.0)), Ordering::Equal);
    assert_eq!(F64(f64::NAN).collate(&F32(-f32::NAN)), Ordering::Equal);
}

#[test]
fn text_to_number() {
    for (text, expected) in [
        ("5", I64(5)),
        (" 5\n", I64(5)),
        ("3.5", F64(3.5)),
        ("+5", I64(5)),
        ("-5", I64(-5)),
        ("-0.5", F64(-0.5)),
        ("1e3", F64(1000.0)),
        ("1E-3", F64(0.001)),
        ("-1.5e+3", F64(-1500.0)),
        ("1+2i", C64([1.0, 2.0])),
        ("-1.5-2.5i", C64([-1.5, -2.5])),
        ("1e-3-2e+3i", C64([0.001, -2000.0])),
        ("1-i", C64([1.0, -1.0])),
        ("9223372036854775807", I64(i64::MAX)),
        ("-9223372036854775808", I64(i64::MIN)),
        ("9223372036854775808", U64(9_223_372_036_854_775_808)),
        ("18446744073709551615", U64(u64::MAX)),
        // Whole floats, by all of their digits, and as they are written.
        ("18446744073709551616", F64(18_446_744_073_709_551_616.0)),
        ("-18446744073709552000", F64(-18_446_744_073_709_551_616.0)),
        ("100000000000000000000", F64(1e20)),
        ("+99999999999999991611392", F64(1e23)),
        ("100000000000000000000000", F64(1e23)),
    ] {
        assert_gives(Number::parse(text), expected);
    }
    for text in [
        "",
        " ",
        "+",
        "-",
        "i",
        ".",
        "e",
        "x",
        "0x10",
        "inf",
        "-inf",
        "nan",
        "1.5.2",
        "1_000",
        "1 2",
        "1+2",
        "1+-2i",
        "+i",
        "1+infi",
        "nan+1i",
        "1e999",
        "true",
        "٣",
        "é+1i",
        "1é-",
        "-9223372036854775809",
        "18446744073709551617",
        "99999999999999999999999999999999999999999999999999",
    ] {
        assert_bad(Number::parse(text));
    }
}

#[test]
fn number_to_text() {
    for (number, expected) in [
        (Bool(true), "true"),
        (U64(u64::MAX), "18446744073709551615"),
        (I16(-5), "-5"),
        (F32(0.1), "0.1"),
        (F64(1e21), "1000000000000000000000"),
        (F64(5.0), "5"),
        (C64([1.0, 2.0]), "1+2i"),
        (C64([1.5, -2.5]), "1.5-2.5i"),
        (C32([f32::NAN, f32::NAN]), "NaN+NaNi"),
        (C32([0.0, f32::NEG_INFINITY]), "0-infi"),
    ] {
        assert_eq!(number.to_string(), expected);
    }
}

#[test]
fn json() {
    for (number, expected) in [
        (Bool(true), json!(true)),
        (U64(u64::MAX), json!(u64::MAX)),
        (I16(-5), json!(-5)),
        (F32(0.5), json!(0.5)),
        (C64([1.0, 2.0]), json!({"/state/scalar/value/number/complex/64": [1.0, 2.0]})),
        (C32([1.0, 2.0]), json!({"/state/scalar/value/number/complex/32": [1.0, 2.0]})),
    ] {
        assert_eq!(serde_json::to_value(number).unwrap(), expected);
    }
    assert_eq!(serde_json::to_string(&F32(0.1)).unwrap(), "0.1");
    for (number, text) in [
        (F64(f64::NAN), "NaN"),
        (F32(f32::INFINITY), "inf"),
        (F64(f64::NEG_INFINITY), "-inf"),
        (C64([1.0, f64::NAN]), "1+NaNi"),
    ] {
        let error = serde_json::to_string(&number).unwrap_err();
        assert_eq!(error.to_string(), format!("the result is not a finite number: {text}"));
    }
}

#[test]
fn native_numbers() {
    assert_same(true.into(), Bool(true));
    assert_same(1_u8.into(), U8(1));
    assert_same(1_i64.into(), I64(1));
    assert_same(0.5_f32.into(), F32(0.5));
    assert!(Number::from(f64::NAN).is_nan() && !Number::from(f64::NAN).is_finite());
    assert!(C32([0.0, f32::NAN]).is_nan() && !C64([f64::INFINITY, 0.0]).is_nan());
    assert!(!C64([f64::INFINITY, 0.0]).is_finite() && U8(1).is_finite());
}

fn real_part() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        (-20..20_i64).prop_map(|x| x as f64 / 2.0),
        (any::<i64>(), -1..=1_i8).prop_map(|(x, step)| match step {
            -1 => (x as f64).next_down(),
            0 => x as f64,
            _ => (x as f64).next_up(),
        }),
        prop::sample::select(vec![
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            0.1,
            9_007_199_254_740_992.0,
            9_223_372_036_854_775_808.0,
            -9_223_372_036_854_775_808.0,
            18_446_744_073_709_551_616.0,
        ]),
    ]
}

fn integer() -> impl Strategy<Value = Number> {
    let value = prop_oneof![
        any::<i64>().prop_map(i128::from),
        any::<u64>().prop_map(i128::from),
        -20..20_i128,
        (0..65_u32, -2..=2_i128).prop_map(|(bit, step)| (1_i128 << bit) + step),
        (0..64_u32, -2..=2_i128).prop_map(|(bit, step)| -(1_i128 << bit) + step),
    ];
    let class = prop::sample::select(vec![
        NumberType::U8,
        NumberType::U16,
        NumberType::U32,
        NumberType::U64,
        NumberType::I16,
        NumberType::I32,
        NumberType::I64,
    ]);
    (value, class).prop_map(|(value, class)| match class {
        NumberType::U64 => U64(value as u64),
        class => I64(value as i64).cast(class),
    })
}

fn real() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<bool>().prop_map(Bool),
        integer(),
        real_part().prop_map(|x| F32(x as f32)),
        real_part().prop_map(F64),
    ]
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        3 => real(),
        1 => [real_part(), real_part()].prop_map(|parts| C32(parts.map(|part| part as f32))),
        1 => [real_part(), real_part()].prop_map(C64),
        1 => real_part().prop_map(|x| C64([x, 0.0])),
    ]
}

/// The exact order of an integer and a float, told by their digits rather than by the code under test.
fn by_digits(x: i128, y: f64) -> Option<Ordering> {
    if y.is_nan() {
        return None;
    }
    let limit = 2_f64.powi(100);
    if y.abs() > limit {
        return Some(if y > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let (below, above) = (y.floor() as i128, y.ceil() as i128);
    Some(match (x.cmp(&below), x.cmp(&above)) {
        (Ordering::Greater, Ordering::Less) => unreachable!("an integer between neighbours"),
        (Ordering::Equal, Ordering::Equal) => Ordering::Equal,
        (Ordering::Greater, _) => Ordering::Greater,
        (Ordering::Equal, _) => Ordering::Less,
        (Ordering::Less, _) => Ordering::Less,
    })
}

fn to_order(x: Number, y: Number) -> Option<Ordering> {
    match (x.lt(y), x == y, x.gt(y)) {
        (true, false, false) => Some(Ordering::Less),
        (false, true, false) => Some(Ordering::Equal),
        (false, false, true) => Some(Ordering::Greater),
        (false, false, false) => None,
        several => panic!("{x:?} and {y:?}: {several:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn integers_compare_as_i128(x in integer(), y in integer()) {
        let order = x.integer().unwrap().cmp(&y.integer().unwrap());
        prop_assert_eq!(to_order(x, y), Some(order));
        prop_assert_eq!(x.collate(&y), order);
    }

    #[test]
    fn integers_and_floats_compare_exactly(x in integer(), y in real_part()) {
        let order = by_digits(x.integer().unwrap(), y);
        prop_assert_eq!(to_order(x, F64(y)), order);
        let y = y as f32;
        prop_assert_eq!(to_order(x, F32(y)), by_digits(x.integer().unwrap(), y.into()));
    }

    #[test]
    fn an_integer_and_its_nearest_float_compare_exactly(x in integer()) {
        let exact = x.integer().unwrap();
        prop_assert_eq!(to_order(x, F64(exact as f64)), by_digits(exact, exact as f64));
        prop_assert_eq!(to_order(x, F32(exact as f32)), by_digits(exact, (exact as f32).into()));
    }

    #[test]
    fn comparison_is_antisymmetric(x in real(), y in real()) {
        prop_assert_eq!(to_order(x, y), to_order(y, x).map(Ordering::reverse));
        prop_assert_eq!(to_order(x, y).is_none(), x.is_nan() || y.is_nan());
        prop_assert_eq!(x.gte(y), x.gt(y) || x == y);
        prop_assert_eq!(x.lte(y), x.lt(y) || x == y);
    }

    #[test]
    fn equality_is_symmetric(x in number(), y in number()) {
        prop_assert_eq!(x == y, y == x);
        prop_assert_eq!(x == x, !x.is_nan());
    }

    #[test]
    fn collation_is_a_total_order(x in number(), y in number(), z in number()) {
        prop_assert_eq!(x.collate(&x), Ordering::Equal);
        prop_assert_eq!(x.collate(&y), y.collate(&x).reverse());
        let mut sorted = [x, y, z];
        sorted.sort_by(Number::collate);
        let [least, middle, most] = sorted;
        prop_assert!(least.collate(&middle).is_le() && middle.collate(&most).is_le());
        prop_assert!(least.collate(&most).is_le());
        if least.collate(&middle).is_lt() || middle.collate(&most).is_lt() {
            prop_assert!(least.collate(&most).is_lt());
        }
    }

    #[test]
    fn collation_agrees_with_equality(x in number()) {
        for class in NumberType::ALL {
            let y = x.cast(class);
            if x.collate(&y).is_eq() && !x.is_nan() {
                prop_assert_eq!(x, y);
            }
            // Only a float that was rounded to f32 may equal what it does not collate with.
            if x == y && !matches!(y, F32(_) | C32(_)) {
                prop_assert_eq!(x.collate(&y), Ordering::Equal);
            }
        }
    }

    #[test]
    fn integer_arithmetic_is_exact_or_an_error(x in integer(), y in integer()) {
        let (a, b) = (x.integer().unwrap(), y.integer().unwrap());
        for (result, exact) in [
            (x.add(y), a.checked_add(b)),
            (x.sub(y), a.checked_sub(b)),
            (x.mul(y), a.checked_mul(b)),
            (x.div(y), a.checked_div(b)),
        ] {
            let fits = |class| {
                let (least, most) = match class {
                    NumberType::I64 => (i64::MIN.into(), i64::MAX.into()),
                    _ => (0, i128::from(u64::MAX)),
                };
                [Some(a), Some(b), exact].into_iter().all(|x| x.is_some_and(|x| (least..=most).contains(&x)))
            };
            match result {
                Ok(number) => prop_assert_eq!(number.integer(), exact),
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::BadRequest);
                    // At the full width there is no error but for what really does not fit.
                    match (x, y) {
                        (I64(_), I64(_)) => prop_assert!(!fits(NumberType::I64)),
                        (U64(_), U64(_)) => prop_assert!(!fits(NumberType::U64)),
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_panics(x in number(), y in number()) {
        for result in [x.add(y), x.sub(y), x.mul(y), x.div(y), x.pow(y), x.abs()] {
            if let Err(error) = result {
                prop_assert_eq!(error.kind(), ErrorKind::BadRequest);
            }
        }
        for result in [x.and(y), x.or(y), x.xor(y), x.not()] {
            prop_assert_eq!(result.class(), NumberType::Bool);
        }
        for class in NumberType::ALL {
            let cast = x.cast(class);
            prop_assert!(same(cast.cast(class), cast));
            prop_assert!(same(x.cast(cast.class()), cast));
        }
        let _ = (x.as_u64(), x.as_i64(), x.as_f64(), x.to_string(), serde_json::to_string(&x));
    }

    #[test]
    fn parsing_never_panics(text in r"[ +\-0-9.eEiné]{0,12}") {
        if let Ok(number) = Number::parse(&text) {
            prop_assert!(number.is_finite());
        }
    }

    #[test]
    fn text_of_integers_and_complex_numbers_parses_back(x in integer(), re in -1e9..1e9_f64, im in -1e9..1e9_f64) {
        prop_assert_eq!(Number::parse(&x.to_string()).unwrap(), x);
        let x = C64([re, im]);
        prop_assert_eq!(Number::parse(&x.to_string()).unwrap(), x);
    }
}
