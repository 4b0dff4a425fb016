//! Many rows that are written into a collection at once: they come in columns, checked and sorted, from the edge.

use std::sync::Arc;

use super::columns::Columns;
use super::schema::Schema;

/// Rows of a collection.
#[derive(Clone, Debug)]
pub struct Bulk {
    schema: Arc<Schema>,
    rows: Columns,
}

impl Bulk {
    /// Rows whose values have been checked against the columns of a schema, in any order; of rows with equal keys the
    /// last one remains.
    ///
    /// # Panics
    /// If they do not have the columns of the schema.
    pub fn new(schema: Arc<Schema>, rows: Columns) -> Self {
        let rows = super::columns::sort(&schema.layouts()[0], rows);
        Self { schema, rows }
    }

    /// What the rows are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The rows, in order of key, each key once.
    pub fn rows(&self) -> &Columns {
        &self.rows
    }
}
