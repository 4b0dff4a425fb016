use arrow_array::builder::{BinaryViewBuilder, StringViewBuilder};
use arrow_array::{
    BinaryArray, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, LargeBinaryArray, LargeStringArray, NullArray, StringArray, TimestampSecondArray,
    UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use proptest::prelude::*;

use super::*;
use crate::rows::Row;
use crate::rows::columns::tests::{TYPES, any_bytes, any_text, any_value, any_value_of};
use crate::rows::schema::Column as SchemaColumn;
use crate::value::name::Id;

fn schema(kind: CollectionKind, columns: &[(ColumnType, Option<u64>)]) -> Arc<Schema> {
    let column = |(i, (class, max_len)): (usize, &(ColumnType, Option<u64>))| SchemaColumn {
        name: Id::parse(&format!("c{i}")).unwrap(),
        class: *class,
        max_len: *max_len,
    };
    let key_len = if kind == CollectionKind::BTree { columns.len() } else { 1 };
    Arc::new(Schema::new(kind, columns.iter().enumerate().map(column).collect(), key_len, [].into()))
}

fn any_schema() -> impl Strategy<Value = Arc<Schema>> {
    let kind = prop::sample::select(vec![CollectionKind::BTree, CollectionKind::Table]);
    let column = (prop::sample::select(TYPES.to_vec()), prop::option::of(0..4u64));
    (kind, prop::collection::vec(column, 1..4)).prop_map(|(kind, mut columns)| {
        for (class, max_len) in &mut columns {
            if matches!(class, ColumnType::Number(_)) {
                *max_len = None;
            }
        }
        schema(kind, &columns)
    })
}

/// Rows that are often, but not always, of the types of the schema.
fn any_rows_for(schema: &Schema) -> impl Strategy<Value = Vec<Vec<Value>>> + use<> {
    let value = |class: ColumnType| prop_oneof![9 => any_value_of(class), 1 => any_value()];
    let row: Vec<_> = schema.columns().iter().map(|column| value(column.class)).collect();
    prop::collection::vec(row, 0..6)
}

/// What becomes of each row in a request, but numbers need not be finite: Arrow has a form for those that are not.
fn row_by_row(schema: &Schema, rows: &[Vec<Value>]) -> std::result::Result<Columns, usize> {
    let rule = match schema.kind() {
        CollectionKind::BTree => Rule::Lenient,
        CollectionKind::Table => Rule::Strict,
    };
    let row = |(i, row): (usize, &Vec<Value>)| -> std::result::Result<Row, usize> {
        assert_eq!(row.len(), schema.columns().len());
        let cells = schema.columns().iter().zip(row);
        cells.map(|(column, value)| into_column(column, value, rule).map_err(|_| i)).collect()
    };
    let rows = rows.iter().enumerate().map(row).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Columns::from_rows(&schema.layouts()[0].types, rows.iter().map(|row| &row[..])))
}

fn assert_equal(actual: &Columns, expected: &Columns) {
    assert_eq!(actual.len(), expected.len());
    for row in 0..actual.len() {
        let encoded = |columns: &Columns| {
            let mut bytes = Vec::new();
            // Bit for bit, also where floats are not equal to themselves.
            columns.row(row).iter().for_each(|value| crate::rows::columns::encode_value(&mut bytes, value));
            bytes
        };
        assert_eq!(encoded(actual), encoded(expected), "row {row}: {:?}", expected.row(row));
    }
}

fn cell(value: &Value) -> Cell<'_> {
    match value {
        Value::Number(number) => Cell::Number(*number),
        Value::String(text) => Cell::Text(text),
        Value::Bytes(content) => Cell::Bytes(content),
        other => Cell::Value(other.clone()),
    }
}

fn import(schema: &Arc<Schema>, rows: &[Vec<Value>]) -> Result<Columns> {
    let mut import = Import::new(schema.clone());
    for row in rows {
        row.iter().enumerate().try_for_each(|(column, value)| import.push(column, cell(value)))?;
        import.end_row(row.len())?;
    }
    Ok(import.finish())
}

fn from_array(class: ColumnType, max_len: Option<u64>, array: ArrayRef) -> Result<Columns> {
    let schema = schema(CollectionKind::Table, &[(class, max_len)]);
    Columns::from_arrays(&schema, &arrays(&[array], 0), &mut |_| Ok(()))
}

fn no_json(text: &str) -> Result<Value> {
    Err(Error::bad_request(format_args!("here {text} is not read as JSON")))
}

fn arrays(arrays: &[ArrayRef], rows_before: usize) -> Arrays<'_> {
    Arrays { arrays, len: arrays[0].len(), are_json: &[false], rows_before, json: no_json }
}

/// An array, and the values that it stands for.
fn any_array() -> impl Strategy<Value = (ArrayRef, Vec<Value>)> {
    fn of<T: Clone + std::fmt::Debug + 'static, A: Array + From<Vec<Option<T>>> + 'static>(
        item: impl Strategy<Value = T> + 'static,
        value: fn(T) -> Value,
    ) -> BoxedStrategy<(ArrayRef, Vec<Value>)> {
        prop::collection::vec(item.prop_map(Some), 0..6)
            .prop_flat_map(|items| {
                let len = items.len();
                (Just(items), prop::option::weighted(0.2, 0..len.max(1)))
            })
            .prop_map(move |(mut items, null)| {
                if let Some(item) = null.and_then(|null| items.get_mut(null)) {
                    *item = None;
                }
                let values = items.iter().cloned().map(|item| item.map_or(Value::None, value)).collect();
                (Arc::new(A::from(items)) as ArrayRef, values)
            })
            .boxed()
    }
    fn small<T: TryFrom<i8> + TryFrom<u8> + Clone + std::fmt::Debug + 'static>(
        all: impl Strategy<Value = T> + 'static,
    ) -> BoxedStrategy<T> {
        prop_oneof![3 => (0..100u8).prop_filter_map("", |x| T::try_from(x).ok()), 1 => all].boxed()
    }
    let texts = || of::<String, StringArray>(any_text(), |text| Value::String(text.into()));
    prop_oneof![
        of::<bool, BooleanArray>(any::<bool>(), Value::from),
        of::<i8, Int8Array>(small(any::<i8>()), |x| Number::I16(x.into()).into()),
        of::<i16, Int16Array>(small(any::<i16>()), |x| Number::I16(x).into()),
        of::<i32, Int32Array>(small(any::<i32>()), |x| Number::I32(x).into()),
        of::<i64, Int64Array>(small(any::<i64>()), |x| Number::I64(x).into()),
        of::<u8, UInt8Array>(any::<u8>(), |x| Number::U8(x).into()),
        of::<u16, UInt16Array>(small(any::<u16>()), |x| Number::U16(x).into()),
        of::<u32, UInt32Array>(small(any::<u32>()), |x| Number::U32(x).into()),
        of::<u64, UInt64Array>(small(any::<u64>()), |x| Number::U64(x).into()),
        of::<f32, Float32Array>(any::<f32>(), |x| Number::F32(x).into()),
        of::<f64, Float64Array>(any::<f64>(), |x| Number::F64(x).into()),
        texts(),
        of::<String, LargeStringArray>(any_text(), |text| Value::String(text.into())),
        texts().prop_map(|(array, values)| {
            let mut views = StringViewBuilder::new();
            array.as_string::<i32>().iter().for_each(|text| views.append_option(text));
            (Arc::new(views.finish()) as ArrayRef, values)
        }),
        texts().prop_map(|(array, values)| {
            let dictionary: DictionaryArray<Int8Type> = array.as_string::<i32>().iter().collect();
            (Arc::new(dictionary) as ArrayRef, values)
        }),
        prop::collection::vec(any_bytes(), 0..4).prop_map(|all| {
            let values = all.iter().map(|bytes| Value::Bytes(bytes[..].into())).collect();
            (Arc::new(BinaryArray::from_iter_values(all)) as ArrayRef, values)
        }),
        prop::collection::vec(any_bytes(), 0..4).prop_map(|all| {
            let values = all.iter().map(|bytes| Value::Bytes(bytes[..].into())).collect();
            (Arc::new(LargeBinaryArray::from_iter_values(all)) as ArrayRef, values)
        }),
        prop::collection::vec(any_bytes(), 0..4).prop_map(|all| {
            let values = all.iter().map(|bytes| Value::Bytes(bytes[..].into())).collect();
            let mut views = BinaryViewBuilder::new();
            all.iter().for_each(|bytes| views.append_value(bytes));
            (Arc::new(views.finish()) as ArrayRef, values)
        }),
        (0..4usize).prop_map(|len| (Arc::new(NullArray::new(len)) as ArrayRef, vec![Value::None; len])),
    ]
}

proptest! {
    #[test]
    fn values_become_what_they_become_in_a_request(
        (schema, rows) in any_schema().prop_flat_map(|schema| {
            let rows = any_rows_for(&schema);
            (Just(schema), rows)
        })
    ) {
        match (import(&schema, &rows), row_by_row(&schema, &rows)) {
            (Ok(actual), Ok(expected)) => assert_equal(&actual, &expected),
            (Err(error), Err(row)) => {
                let place = format!("row {}, column c", row + 1);
                prop_assert!(error.message().starts_with(&place), "{error}, not in row {row}");
            }
            (actual, expected) => prop_assert!(false, "{actual:?}, not {expected:?}"),
        }
    }

    #[test]
    fn arrays_become_what_their_values_become(
        class in prop::sample::select(TYPES.to_vec()),
        max_len in prop::option::of(0..4u64),
        (array, values) in any_array(),
        cut in 0..3usize,
    ) {
        let max_len = max_len.filter(|_| !matches!(class, ColumnType::Number(_)));
        // A slice has its values somewhere in its memory.
        let cut = cut.min(array.len());
        let (array, values) = (array.slice(cut, array.len() - cut), &values[cut..]);
        let takes_null = matches!(class, ColumnType::None | ColumnType::Value);
        let null = values.iter().position(|value| *value == Value::None).filter(|_| !takes_null);
        let rows: Vec<Vec<Value>> = values.iter().map(|value| vec![value.clone()]).collect();
        let expected = row_by_row(&schema(CollectionKind::Table, &[(class, max_len)]), &rows);
        let expected = match (expected, null) {
            (expected, None) => expected,
            (Ok(_), Some(null)) => Err(null),
            (Err(row), Some(null)) => Err(row.min(null)),
        };
        match (from_array(class, max_len, array), expected) {
            (Ok(actual), Ok(expected)) => assert_equal(&actual, &expected),
            (Err(error), Err(row)) => {
                let place = format!("row {}, column c0", row + 1);
                prop_assert!(error.message().starts_with(&place), "{error}, not in row {row}");
            }
            (actual, expected) => prop_assert!(false, "{actual:?}, not {expected:?}"),
        }
    }
}

#[test]
fn arrays_of_the_type_of_a_column_stay_where_they_are() {
    let numbers = Int64Array::from(vec![1, 2, 3]);
    let start = numbers.values().as_ptr();
    let columns = from_array(ColumnType::Number(NumberType::I64), None, Arc::new(numbers)).unwrap();
    let Column::I64(values) = &columns.columns[0] else { panic!("a column of another type") };
    assert_eq!(values.as_ptr(), start);

    let texts = StringArray::from(vec!["a", "bc"]);
    let start = texts.values().as_ptr();
    let columns = from_array(ColumnType::String, Some(2), Arc::new(texts)).unwrap();
    let Column::String(values) = &columns.columns[0] else { panic!("a column of another type") };
    assert_eq!(values.values().as_ptr(), start);
}

#[test]
fn rows_are_counted_over_all_batches() {
    let schema = schema(CollectionKind::Table, &[(ColumnType::Number(NumberType::U8), None)]);
    let array: ArrayRef = Arc::new(Int32Array::from(vec![1, 256]));
    let error = Columns::from_arrays(&schema, &arrays(&[array], 40), &mut |_| Ok(())).unwrap_err();
    assert!(error.message().starts_with("row 42, column c0: 256 is out of the range"), "{error}");
}

#[test]
fn a_row_has_a_value_for_each_column() {
    let schema = schema(CollectionKind::Table, &[(ColumnType::String, None), (ColumnType::Value, None)]);
    let mut import = Import::new(schema);
    import.push(0, Cell::Text("a")).unwrap();
    let error = import.end_row(1).unwrap_err();
    assert_eq!(error.message(), "row 1: a row of this table has 2 values, not 1");
}

#[test]
fn times_are_refused_with_advice() {
    let error =
        from_array(ColumnType::Number(NumberType::I64), None, Arc::new(TimestampSecondArray::from(vec![1])))
            .unwrap_err();
    assert!(error.message().contains("column c0: the Arrow type Timestamp(s) is not supported"), "{error}");
    assert!(error.message().contains("as integers or text"), "{error}");
}

#[test]
fn memory_is_charged_before_it_is_taken() {
    let refuse = &mut |bytes: usize| {
        if bytes > 1_000_000 { Err(Error::too_large("too much")) } else { Ok(()) }
    };
    let schema = schema(CollectionKind::Table, &[(ColumnType::Value, None)]);
    // Nulls take no memory, however many there are.
    let nulls: ArrayRef = Arc::new(NullArray::new(usize::MAX / 2));
    let error = Columns::from_arrays(&schema, &arrays(std::slice::from_ref(&nulls), 0), refuse).unwrap_err();
    assert_eq!(error.message(), "too much");

    let mut charged_bytes = 0;
    let long = "x".repeat(10_000);
    let dictionary: DictionaryArray<Int32Type> = (0..1_000).map(|_| Some(&long[..])).collect();
    let schema = self::schema(CollectionKind::Table, &[(ColumnType::String, None)]);
    let error = Columns::from_arrays(&schema, &arrays(&[Arc::new(dictionary)], 0), &mut |bytes| {
        charged_bytes += bytes;
        if charged_bytes > 1_000_000 { Err(Error::too_large("too much")) } else { Ok(()) }
    });
    assert_eq!(error.unwrap_err().message(), "too much");
    assert!(charged_bytes < 1_200_000, "it stopped soon after {charged_bytes} bytes");
}

#[test]
fn batches_become_one() {
    let class = ColumnType::String;
    let parts = [vec!["a", "b"], vec!["c"]];
    let parts = parts.map(|texts| from_array(class, None, Arc::new(StringArray::from(texts))).unwrap());
    let all = Columns::concat(&[class].into(), parts.into(), &mut |_| Ok(())).unwrap();
    let texts: Vec<String> = (0..3).map(|row| all.value(0, row).to_string()).collect();
    assert_eq!(texts, ["a", "b", "c"]);
    assert!(Columns::concat(&[class].into(), Vec::new(), &mut |_| Ok(())).unwrap().is_empty());
}
