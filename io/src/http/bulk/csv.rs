//! Rows out of CSV text (RFC 4180).

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use components::rows::columns::{Columns, Import, TextOrigin, cell};
use components::rows::schema::Schema;
use components::{Error, Result};

use super::arriving::{Arriving, Gathered, Text, TextWatch};
use super::{UNCHARGED_BYTES_MAX, json, positions};

/// Decode CSV text with a header of the names of the columns of the schema, in any order. An empty field is an empty
/// text, nothing in a column of any value, and no number. `charge` is asked for the memory of the rows, in bytes.
///
/// # Errors
/// 400 if it is malformed or of other columns; as [`Import::push`], with the rows counted after the header.
pub fn csv(
    schema: &Arc<Schema>,
    bytes: &[u8],
    charge: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Columns> {
    std::str::from_utf8(bytes).map_err(not_utf8)?;
    // The reader takes a text that ends within quotes.
    check_quotes(bytes.iter().filter(|byte| **byte == b'"').count())?;
    let mut import = Import::new(schema.clone());
    let mut charged_bytes = 0;
    read(schema, bytes, &mut import, &mut |import| {
        if import.bytes() - charged_bytes > UNCHARGED_BYTES_MAX {
            charge(import.bytes() - charged_bytes)?;
            charged_bytes = import.bytes();
        }
        Ok(())
    })?;
    charge(import.bytes() - charged_bytes)?;
    Ok(import.finish())
}

/// Decode CSV text as [`csv`] does, while it arrives, a row of at most so many bytes, about.
///
/// # Errors
/// As [`csv`]; 413 if a row is larger; of [`Gathered::push`].
pub(super) fn csv_arriving(
    schema: &Arc<Schema>,
    arriving: Arriving,
    row_bytes_max: usize,
    gathered: &mut Gathered<'_>,
) -> Result<()> {
    let watch = Rc::new(TextWatch::default());
    let text = Text::new(arriving, row_bytes_max, watch.clone());
    let mut import = Import::new(schema.clone());
    let (mut rows_before, mut charged_bytes) = (0, 0);
    read(schema, text, &mut import, &mut |import| {
        watch.unended_bytes.set(0);
        if import.bytes() - charged_bytes > UNCHARGED_BYTES_MAX {
            gathered.charge(import.bytes() - charged_bytes)?;
            charged_bytes = import.bytes();
        }
        if import.bytes() > gathered.bytes_max() {
            rows_before += import.len();
            let full = std::mem::replace(import, Import::after(schema.clone(), rows_before));
            let bytes = full.bytes();
            charged_bytes = 0;
            gathered.push(full.finish(), bytes)?;
        }
        Ok(())
    })?;
    check_quotes(watch.quotes.get())?;
    let bytes = import.bytes();
    gathered.push(import.finish(), bytes)
}

fn check_quotes(quotes: usize) -> Result<()> {
    match quotes % 2 {
        0 => Ok(()),
        _ => Err(Error::bad_request("the CSV ends within quotes, or a quote in a field is not doubled")),
    }
}

/// Read all rows; `ended` is called with each one that has.
fn read(
    schema: &Arc<Schema>,
    text: impl io::Read,
    import: &mut Import,
    ended: &mut dyn FnMut(&mut Import) -> Result<()>,
) -> Result<()> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let mut record = ::csv::ByteRecord::new();
    let mut next = |record: &mut ::csv::ByteRecord| reader.read_byte_record(record).map_err(unreadable);
    if !next(&mut record)? {
        return Err(Error::bad_request("the CSV has no header with the names of its columns"));
    }
    let names: Vec<&str> =
        record.iter().map(std::str::from_utf8).collect::<std::result::Result<_, _>>().map_err(not_utf8)?;
    let positions = positions(schema, names.into_iter())?;
    while next(&mut record)? {
        if record.len() == positions.len() {
            for (position, field) in positions.iter().zip(record.iter()) {
                // Fields are cut at ASCII characters.
                let text = std::str::from_utf8(field)
                    .map_err(|_| import.refused(*position, &Error::bad_request("it is not UTF-8")))?;
                match cell(schema.columns()[*position].class, text, TextOrigin::Csv, json::value) {
                    Ok(cell) => import.push(*position, cell)?,
                    Err(cause) => return Err(import.refused(*position, &cause)),
                }
            }
        }
        import.end_row(record.len())?;
        ended(import)?;
    }
    Ok(())
}

fn not_utf8(cause: std::str::Utf8Error) -> Error {
    Error::bad_request(format_args!("the CSV is not UTF-8 at byte {}", cause.valid_up_to()))
}

fn unreadable(cause: ::csv::Error) -> Error {
    let arriving = match cause.kind() {
        ::csv::ErrorKind::Io(cause) => cause.get_ref().and_then(|cause| cause.downcast_ref::<Error>()),
        _ => None,
    };
    let unreadable = || Error::bad_request(format_args!("the CSV cannot be read: {cause}"));
    arriving.cloned().unwrap_or_else(unreadable)
}
