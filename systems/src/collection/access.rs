//! How the rows of a collection are read and written, wherever they are.

use components::language::collection::local::Snapshot;
use components::language::collection::{Collection, Source};
use components::rows::Row;
use components::rows::bound::Condition;
use components::rows::key::{Key, KeyRange};
use components::rows::packed;
use components::rows::scan::PageScan;
use components::{Error, Result};

use super::hosted::HostedScan;
use crate::scalar::Interpreter;

/// How many rows the first chunk of a scan looks at; each chunk after it at twice as many, up to [`CHUNK_ROWS_MAX`].
const CHUNK_ROWS_FIRST: usize = 16;

/// How many rows a chunk looks at most.
const CHUNK_ROWS_MAX: usize = 512;

/// A scan of one tree of a collection, as it was when the scan began.
#[derive(Debug)]
pub(crate) struct Cursor {
    collection: Collection,
    tree: usize,
    /// What has not been looked at.
    range: KeyRange,
    chunk_rows: usize,
    touched: Touched,
    rows: CursorRows,
}

#[derive(Debug)]
enum CursorRows {
    /// In memory, as long as the snapshot is there.
    Local {
        scan: PageScan,
        _snapshot: Snapshot,
    },
    Hosted(Box<HostedScan>),
}

/// What a scan has looked at so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touched {
    /// Pages of the tree.
    pub(crate) pages: u64,
    /// Pages that were read.
    pub(crate) pages_read: u64,
    /// Rows that were read.
    pub(crate) rows_read: u64,
}

impl Cursor {
    pub(crate) fn touched(&self) -> Touched {
        self.touched
    }

    fn is_done(&self) -> bool {
        let has_found = match &self.rows {
            CursorRows::Local { .. } => false,
            CursorRows::Hosted(scan) => scan.has_found(),
        };
        self.range.is_empty() && !has_found
    }
}

/// A declaration has no rows; programs only ever get the collection that is hosted in its place.
fn declared() -> Error {
    Error::internal("a declaration of a collection cannot be read")
}

impl Interpreter {
    /// The row with this primary key.
    pub(crate) async fn row(&self, collection: &Collection, key: &Key) -> Result<Option<Row>> {
        let schema = &collection.schema;
        self.step(schema.columns().len()).await;
        match &collection.source {
            Source::Local(local) => Ok(local.row(key)),
            Source::Hosted(hosted) => self.hosted_row(*hosted, &schema.layouts()[0], key).await,
            Source::Declared => Err(declared()),
        }
    }

    /// Put a row in the place of the one with this primary key, if there is one, or delete that; in all trees.
    pub(crate) async fn write(&self, collection: &Collection, key: &Key, new: Option<Row>) -> Result<()> {
        let schema = &collection.schema;
        self.step(schema.layouts().iter().map(|layout| layout.columns.len()).sum()).await;
        match &collection.source {
            Source::Local(local) => local.write(key, new),
            Source::Hosted(hosted) => self.write_hosted_row(*hosted, &schema.layouts()[0], key, new).await,
            Source::Declared => Err(declared()),
        }
    }

    /// Begin a scan of a tree: the rows in a range of its keys that meet conditions on its columns.
    pub(crate) async fn open(
        &self,
        collection: &Collection,
        tree: usize,
        range: KeyRange,
        is_reversed: bool,
        conditions: &[Condition],
    ) -> Result<Cursor> {
        let rows = match &collection.source {
            Source::Local(local) => {
                let snapshot = local.snapshot();
                let (rows, conditions) = (snapshot.rows.clone(), conditions.to_vec());
                CursorRows::Local {
                    scan: PageScan { rows, tree, is_reversed, conditions },
                    _snapshot: snapshot,
                }
            }
            Source::Hosted(hosted) => CursorRows::Hosted(Box::new(
                self.hosted_scan(*hosted, tree, &range, is_reversed, conditions).await,
            )),
            Source::Declared => return Err(declared()),
        };
        let pages = match &rows {
            CursorRows::Local { .. } => 1,
            CursorRows::Hosted(scan) => scan.pages() as u64,
        };
        Ok(Cursor {
            collection: collection.clone(),
            tree,
            range,
            chunk_rows: CHUNK_ROWS_FIRST,
            touched: Touched { pages, pages_read: 0, rows_read: 0 },
            rows,
        })
    }

    /// The next rows of a scan, at least one, in order. For whoever wants so many, no more pages are read than that takes,
    /// or hardly; there may be more rows.
    pub(crate) async fn next(&self, cursor: &mut Cursor, wanted: u64) -> Result<Option<Vec<Row>>> {
        let columns = cursor.collection.schema.layouts()[cursor.tree].columns.len();
        while !cursor.is_done() {
            let Cursor { range, chunk_rows, touched, rows, .. } = cursor;
            let (rows, looked_at) = match rows {
                CursorRows::Local { scan, .. } => {
                    let (rows, looked_at) = scan.read_resident(range, *chunk_rows);
                    touched.pages_read = 1;
                    touched.rows_read += looked_at as u64;
                    (rows, looked_at)
                }
                CursorRows::Hosted(scan) => {
                    self.hosted_chunk(scan, range, *chunk_rows, wanted, touched).await
                }
            };
            *chunk_rows = (*chunk_rows * 2).min(CHUNK_ROWS_MAX);
            self.step(looked_at * (1 + columns)).await;
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// The whole rows for rows of the tree that is scanned, as they were when the scan began.
    pub(crate) async fn complete(&self, cursor: &mut Cursor, rows: Vec<Row>) -> Result<Vec<Row>> {
        let layouts = cursor.collection.schema.layouts();
        let (primary, layout) = (&layouts[0], &layouts[cursor.tree]);
        self.step(rows.len() * (1 + primary.columns.len())).await;
        cursor.touched.rows_read += rows.len() as u64;
        let places: Vec<usize> = primary
            .key_columns()
            .iter()
            .map(|column| layout.place(*column).expect("an index has all columns of the key"))
            .collect();
        let key = |row: &Row| {
            let key: Vec<_> = places.iter().map(|place| row[*place].clone()).collect();
            Key::of_prefix(primary, &key)
        };
        let keys: Vec<Key> = rows.iter().map(key).collect();
        match &cursor.rows {
            CursorRows::Local { scan, .. } => {
                let row = |key| packed::row(primary, &scan.rows.trees[0], key);
                Ok(keys.iter().map(|key| row(key).expect("every entry of an index has its row")).collect())
            }
            CursorRows::Hosted(scan) => self.hosted_rows(scan, primary, &keys).await,
        }
    }

    /// How many rows of a tree are in a range of its keys and meet conditions on its columns, or so many if there are
    /// more.
    pub(crate) async fn count(
        &self,
        collection: &Collection,
        tree: usize,
        range: KeyRange,
        conditions: &[Condition],
        rows_max: u64,
    ) -> Result<u64> {
        if let Source::Local(local) = &collection.source
            && range == KeyRange::all()
            && conditions.is_empty()
        {
            return Ok(rows_max.min(local.len()));
        }
        if let Source::Hosted(hosted) = &collection.source {
            return Ok(self.hosted_count(*hosted, tree, range, conditions, rows_max).await.0);
        }
        let mut cursor = self.open(collection, tree, range, false, conditions).await?;
        let mut count = 0;
        while count < rows_max
            && let Some(rows) = self.next(&mut cursor, rows_max - count).await?
        {
            count += rows.len() as u64;
        }
        Ok(count.min(rows_max))
    }
}
