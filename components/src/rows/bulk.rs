//! Many rows that are written into a collection at once: they come in columns, checked and sorted, from the edge.

use std::sync::Arc;

use super::columns::Columns;
use super::runs::Runs;
use super::schema::Schema;

/// Rows of a collection.
#[derive(Clone, Debug)]
pub struct Bulk {
    schema: Arc<Schema>,
    rows: BulkRows,
    sent: u64,
}

/// Where the rows are.
#[derive(Clone, Debug)]
pub enum BulkRows {
    /// In memory, in order of key, each key once.
    Resident(Columns),
    /// In scratch space.
    Spilled(Runs),
}

impl Bulk {
    /// Rows whose values have been checked against the columns of a schema, in any order; of rows with equal keys the
    /// last one remains.
    ///
    /// # Panics
    /// If they do not have the columns of the schema.
    pub fn new(schema: Arc<Schema>, rows: Columns) -> Self {
        let sent = rows.len() as u64;
        let rows = super::columns::sort(&schema.layouts()[0], rows);
        Self { schema, rows: BulkRows::Resident(rows), sent }
    }

    /// Rows that were checked and written to scratch space in the order of the primary key; so many of them came, those
    /// that others replace included.
    pub fn spilled(schema: Arc<Schema>, runs: Runs, sent: u64) -> Self {
        Self { schema, rows: BulkRows::Spilled(runs), sent }
    }

    /// How many rows came, those that others replace included.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// What the rows are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The rows.
    pub fn rows(&self) -> &BulkRows {
        &self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match &self.rows {
            BulkRows::Resident(rows) => rows.is_empty(),
            BulkRows::Spilled(runs) => runs.is_empty(),
        }
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.rows {
            BulkRows::Resident(rows) => rows.bytes(),
            BulkRows::Spilled(runs) => runs.bytes(),
        }
    }
}
