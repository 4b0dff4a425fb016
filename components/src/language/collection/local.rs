//! Collections that live as long as their transaction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::language::chain::History;
use crate::language::memory::{Account, Reservation};
use crate::rows::Row;
use crate::rows::key::Key;
use crate::rows::packed::PackedRows;
use crate::rows::schema::Schema;
use crate::rows::seen::RowsSnapshot;
use crate::value::error::Result;
use crate::value::name::Path;

/// The rows of a collection that is not hosted.
#[derive(Debug)]
pub struct LocalCollection {
    schema: Arc<Schema>,
    content: Mutex<Content>,
    /// What records its writes, and where it is in the subject of its chain.
    history: Option<(Arc<History>, Path)>,
}

#[derive(Debug)]
struct Content {
    rows: PackedRows,
    memory: Reservation,
    /// Held by every snapshot: what is deleted while there is one is still there.
    snapshots: Arc<()>,
    /// What only snapshots may still hold, in bytes.
    garbage_bytes: u64,
}

/// All rows of a collection as they were at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The primary tree, then the indices; all of them are in memory.
    pub rows: RowsSnapshot,
    _alive: Arc<()>,
}

#[cfg(test)]
impl Snapshot {
    /// One of rows that are nobody's.
    pub(crate) fn of(rows: RowsSnapshot) -> Self {
        Self { rows, _alive: Arc::default() }
    }
}

impl LocalCollection {
    /// An empty collection on the account of a transaction.
    pub fn new(schema: Arc<Schema>, account: Arc<dyn Account>) -> Self {
        let content = Content {
            rows: PackedRows::new(schema.clone()),
            memory: Reservation::new(account),
            snapshots: Arc::default(),
            garbage_bytes: 0,
        };
        Self { schema, content: Mutex::new(content), history: None }
    }

    /// An empty collection at this path in the subject of a block chain that is not hosted.
    pub fn in_chain(
        schema: Arc<Schema>,
        account: Arc<dyn Account>,
        history: Arc<History>,
        path: Path,
    ) -> Self {
        Self { history: Some((history, path)), ..Self::new(schema, account) }
    }

    /// What records its writes, and where it is in the subject of its chain, if it is in a block chain.
    pub fn history(&self) -> Option<&(Arc<History>, Path)> {
        self.history.as_ref()
    }

    // What panics in between is a defect, and ends the transaction that owns this.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its rows are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// How many rows it has.
    pub fn len(&self) -> u64 {
        self.content().rows.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row with this key.
    pub fn row(&self, key: &Key) -> Option<Row> {
        self.content().rows.row(key)
    }

    /// All rows as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let content = self.content();
        Snapshot { rows: content.rows.snapshot(), _alive: content.snapshots.clone() }
    }

    /// Put a row in the place of the one with this key, if there is one, or delete that.
    ///
    /// # Errors
    /// 400 if the transaction would hold too much; then it has to end.
    pub fn write(&self, key: &Key, new: Option<Row>) -> Result<()> {
        let Content { rows, memory, snapshots, garbage_bytes } = &mut *self.content();
        *garbage_bytes += rows.write(key, new, |bytes| memory.grow(bytes))?;
        if Arc::strong_count(snapshots) == 1 {
            *garbage_bytes = 0;
        }
        // What was packed takes less now, or is there twice.
        memory.hold(rows.bytes() + *garbage_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::rows::key::KeyRange;
    use crate::rows::scan::PageScan;
    use crate::rows::schema::tests::inventory;
    use crate::value::number::Number;

    /// An account without a limit.
    #[derive(Debug, Default)]
    struct Purse(AtomicU64);

    impl Purse {
        fn bytes(&self) -> u64 {
            self.0.load(Relaxed)
        }
    }

    impl Account for Purse {
        fn reserve(&self, bytes: u64) -> Result<()> {
            self.0.fetch_add(bytes, Relaxed);
            Ok(())
        }

        fn release(&self, bytes: u64) {
            self.0.fetch_sub(bytes, Relaxed);
        }
    }

    /// The colors that the index has.
    fn colors(snapshot: &Snapshot) -> Vec<String> {
        let scan =
            PageScan { rows: snapshot.rows.clone(), tree: 1, is_reversed: false, conditions: Vec::new() };
        let (rows, _) = scan.read_resident(&mut KeyRange::all(), usize::MAX);
        rows.iter().map(|row| row[0].to_string()).collect()
    }

    #[test]
    fn a_snapshot_stays_as_it_was_and_every_byte_is_given_back() {
        let account = Arc::new(Purse::default());
        let schema = Arc::new(inventory());
        let table = LocalCollection::new(schema.clone(), account.clone());
        let row = |sku: u64, color: &str| -> Row { [sku.into(), color.into(), Number::I32(1).into()].into() };
        let key = |sku: u64| Key::of_prefix(&schema.layouts()[0], &[sku.into()]);
        for (sku, color) in [(1, "red"), (2, "blue")] {
            table.write(&key(sku), Some(row(sku, color))).unwrap();
        }
        let two_rows = account.bytes();
        let snapshot = table.snapshot();
        table.write(&key(1), Some(row(1, "pink"))).unwrap();
        table.write(&key(2), None).unwrap();
        assert!(table.row(&key(2)).is_none());
        assert_eq!(colors(&snapshot), ["blue", "red"]);
        assert_eq!(colors(&table.snapshot()), ["pink"]);
        assert!(account.bytes() > two_rows, "the snapshot still holds what was replaced");
        // Versions of a row go when there are some.
        let color = |i: u64| ["red", "blue", "pink"][i as usize % 3];
        let many = || (0..1_000).for_each(|i| table.write(&key(i % 2), Some(row(i % 2, color(i)))).unwrap());
        many();
        let held = account.bytes();
        drop(snapshot);
        many();
        assert!(account.bytes() < held && account.bytes() < 100 * two_rows, "{}, {held}", account.bytes());
        (0..1_000).for_each(|i| table.write(&key(i % 2), None).unwrap());
        assert!(table.is_empty() && account.bytes() < 100 * two_rows);
        drop(table);
        assert_eq!(account.bytes(), 0);
    }
}
