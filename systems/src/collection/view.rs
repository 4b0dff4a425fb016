//! How the rows of a collection or view are read.

use std::collections::VecDeque;
use std::sync::Arc;

use components::language::collection::Collection;
use components::language::collection::declare::PRIMARY;
use components::language::collection::snapshot::Scan;
use components::language::collection::view::{Rowset, View};
use components::language::memory::Reservation;
use components::rows::Row;
use components::rows::bound::Condition;
use components::rows::key::KeyRange;
use components::rows::scan::at_once;
use components::rows::schema::{ColumnType, Schema};
use components::rows::sorter::{Order, Sorted, Sorter, Spilled};
use components::transaction::job::{Job, JobResult};
use components::{Id, Number, Result, State};

use super::access::{Cursor, Touched};
use super::plan::plan;
use crate::futures::BoxFuture;
use crate::scalar::Interpreter;

/// Rows that take no more than this are sorted at once, others by a job, in bytes.
const SORTED_AT_ONCE_BYTES: usize = 64 << 10;

/// In how many forms rows that are sorted are in memory at the same time.
const SORTED_FORMS: u64 = 2;

/// Rows on their way, as they were when that began.
pub(crate) struct Rows {
    source: RowsSource,
    /// What rows of the source must meet.
    conditions: Vec<Condition>,
    /// Which values of a row of the source to give; all if none are named.
    output: Option<Vec<usize>>,
    /// How many there may still be.
    left: u64,
    /// The index that is read, for people.
    index: Id,
}

enum RowsSource {
    Tree(Box<Cursor>),
    Index(Box<Cursor>, Entries),
    Rows(Box<Rows>),
    Sorted(Box<SortedRows>),
}

/// Rows of an index, which does not have all columns.
#[derive(Default)]
struct Entries {
    /// Those that are completed next.
    found: VecDeque<Row>,
    /// How many were completed.
    completed: u64,
}

impl Entries {
    /// The next ones that are completed at the same time: as many as are wanted, or an eighth of those that were, if many
    /// of them were not what is wanted.
    fn take(&mut self, wanted: u64) -> Vec<Row> {
        let wanted = usize::try_from(wanted.max(at_once(self.completed))).unwrap_or(usize::MAX);
        let taken: Vec<Row> = self.found.drain(..wanted.min(self.found.len())).collect();
        self.completed += taken.len() as u64;
        taken
    }
}

/// Rows in order, with what was looked at for them.
struct SortedRows {
    rows: Sorted,
    touched: Touched,
    memory: Reservation,
}

impl Rows {
    /// Leave all but the first ones: the others need not be read.
    pub(crate) fn limit(&mut self, rows_max: u64) {
        self.left = self.left.min(rows_max);
    }

    fn touched(&self) -> Touched {
        match &self.source {
            RowsSource::Tree(cursor) | RowsSource::Index(cursor, _) => cursor.touched(),
            RowsSource::Rows(rows) => rows.touched(),
            RowsSource::Sorted(sorted) => sorted.touched,
        }
    }
}

/// The name of a tree.
fn index_name(schema: &Schema, tree: usize) -> Id {
    match tree.checked_sub(1) {
        None => Id::literal(PRIMARY),
        Some(index) => schema.indices()[index].name.clone(),
    }
}

/// The collection that a rowset is about, and the one scan that finds its rows, sorted afterwards if no tree has them in
/// order, if there is such a scan.
pub(crate) fn single_scan(rows: &Rowset) -> Option<(&Collection, Scan)> {
    match rows {
        Rowset::Collection(collection) => {
            let scan = Scan {
                tree: 0,
                range: KeyRange::all(),
                is_reversed: false,
                conditions: Vec::new(),
                completes: false,
                residual: Vec::new(),
                output: None,
                order: None,
                limit: u64::MAX,
            };
            Some((collection, scan))
        }
        Rowset::View(view) => {
            let Rowset::Collection(collection) = view.base() else {
                return None;
            };
            let (mut scan, sorted_by) = scan_of(collection, view, view.order());
            scan.order = sorted_by.map(|by| Order { by, is_reversed: view.is_reversed() });
            Some((collection, scan))
        }
    }
}

/// The scan that finds the rows of a view of a collection, and by which values of them they must be sorted then, if they
/// must.
fn scan_of(collection: &Collection, view: &View, order: Option<&[usize]>) -> (Scan, Option<Vec<usize>>) {
    let schema = &collection.schema;
    let output: Vec<usize> = match view.selection() {
        Some(positions) => positions.to_vec(),
        None => (0..schema.columns().len()).collect(),
    };
    let plan = plan(schema, view.conditions(), order, view.is_reversed(), &output);
    let layout = &schema.layouts()[plan.tree];
    let place = |column: usize| match plan.completes {
        true => column,
        false => layout.place(column).expect("a tree with all columns that are needed"),
    };
    let width = if plan.completes { schema.columns().len() } else { layout.columns.len() };
    let output: Vec<usize> = output.into_iter().map(place).collect();
    let is_whole = output.len() == width && output.is_sorted();
    let scan = Scan {
        tree: plan.tree,
        range: plan.range,
        is_reversed: plan.is_reversed,
        conditions: plan.conditions,
        completes: plan.completes,
        residual: plan.residual,
        output: if is_whole { None } else { Some(output) },
        order: None,
        limit: view.limit().unwrap_or(u64::MAX),
    };
    (scan, order.filter(|_| plan.sorts).map(|order| order.iter().map(|i| place(*i)).collect()))
}

impl Interpreter {
    /// Begin to read rows.
    pub(crate) async fn open_rows(&self, rows: &Rowset) -> Result<Rows> {
        self.open_view(rows, true).await
    }

    /// Begin to read rows, in order or not.
    fn open_view<'a>(&'a self, rows: &'a Rowset, in_order: bool) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(async move {
            self.step(0).await;
            match rows {
                Rowset::Collection(collection) => {
                    let cursor = self.open(collection, 0, KeyRange::all(), false, &[]).await?;
                    Ok(Rows {
                        source: RowsSource::Tree(Box::new(cursor)),
                        conditions: Vec::new(),
                        output: None,
                        left: u64::MAX,
                        index: Id::literal(PRIMARY),
                    })
                }
                Rowset::View(view) => {
                    // Which rows are the first ones depends on the order.
                    let in_order = in_order || view.limit().is_some();
                    let order = if in_order { view.order() } else { None };
                    let left = view.limit().unwrap_or(u64::MAX);
                    let (mut rows, types, order) = match view.base() {
                        Rowset::Collection(collection) => self.open_base(collection, view, order).await?,
                        base => {
                            // The order of what is viewed decides between equal rows.
                            let source = self.open_view(base, in_order).await?;
                            let index = source.index.clone();
                            let rows = Rows {
                                source: RowsSource::Rows(Box::new(source)),
                                conditions: view.conditions().to_vec(),
                                output: view.selection().map(|positions| positions.to_vec()),
                                left,
                                index,
                            };
                            // Reversed without an order: the position decides.
                            let is_sorted = in_order && (order.is_some() || view.is_reversed());
                            let types = base.columns().iter().map(|column| column.class).collect();
                            (rows, types, is_sorted.then(|| order.unwrap_or_default().to_vec()))
                        }
                    };
                    if let Some(order) = order {
                        rows = self.sort(view, rows, &types, &order).await?;
                    }
                    rows.left = left;
                    Ok(rows)
                }
            }
        })
    }

    /// Begin to read rows of a collection itself, and say of which types the rows of the source are, and in which order they
    /// must be brought, if they must.
    async fn open_base(
        &self,
        collection: &Collection,
        view: &View,
        order: Option<&[usize]>,
    ) -> Result<(Rows, Arc<[ColumnType]>, Option<Vec<usize>>)> {
        let (scan, sorted_by) = scan_of(collection, view, order);
        let found = if scan.completes { 0 } else { scan.tree };
        let types = collection.schema.layouts()[found].types.clone();
        let cursor = self.open(collection, scan.tree, scan.range, scan.is_reversed, &scan.conditions).await?;
        let source = match scan.completes {
            true => RowsSource::Index(Box::new(cursor), Entries::default()),
            false => RowsSource::Tree(Box::new(cursor)),
        };
        let rows = Rows {
            source,
            conditions: scan.residual,
            output: scan.output,
            left: u64::MAX,
            index: index_name(&collection.schema, scan.tree),
        };
        Ok((rows, types, sorted_by))
    }

    /// Read all rows, of these types, and bring them into the order of these positions in the rows of the source, as far as
    /// the limit of the view goes. Rows that are equal there stay in their order.
    async fn sort(&self, view: &View, mut rows: Rows, types: &[ColumnType], order: &[usize]) -> Result<Rows> {
        let (output, limit) = (rows.output.take(), view.limit().unwrap_or(u64::MAX));
        rows.left = u64::MAX;
        let order = Order { by: order.to_vec(), is_reversed: view.is_reversed() };
        let (run_bytes, part_bytes) = (self.jobs.sorted_bytes, self.jobs.sorted_bytes / 2);
        let mut sorter = Sorter::new(types, &order, output.as_deref(), limit, run_bytes, part_bytes);
        let mut memory = Reservation::new(self.ledger.clone());
        while let Some(chunk) = self.next_rows(&mut rows).await? {
            self.step(chunk.len() * types.len()).await;
            for row in chunk {
                sorter.gather(|position| row[position].clone());
                if sorter.is_full() {
                    let spilled = self.spill(&mut sorter, false).await?;
                    sorter.put(spilled);
                }
            }
            memory.hold(SORTED_FORMS * sorter.pending_bytes() as u64)?;
        }
        let last = self.spill(&mut sorter, true).await?;
        let (touched, index) = (rows.touched(), rows.index);
        let sorted = SortedRows { rows: sorter.finish(last), touched, memory };
        let source = RowsSource::Sorted(Box::new(sorted));
        Ok(Rows { source, conditions: Vec::new(), output: None, left: limit, index })
    }

    /// Sort what was gathered, and write it to scratch space if it is not all.
    async fn spill(&self, sorter: &mut Sorter, is_last: bool) -> Result<Spilled> {
        let is_little = sorter.pending_bytes() <= SORTED_AT_ONCE_BYTES && !sorter.is_full();
        let gathered = sorter.take(is_last);
        if is_little && gathered.is_all() {
            return gathered.spill(&|| unreachable!("what is all stays in memory"));
        }
        match self.run_job(Job::Sort(gathered)).await {
            JobResult::Spilled(spilled) => Ok(spilled),
            JobResult::Refused(cause) => Err(cause),
            other => unreachable!("sorting gives rows in order, not {other:?}"),
        }
    }

    /// The next rows in order, if there are more.
    async fn next_sorted(&self, sorted: &mut SortedRows) -> Result<Option<Vec<Row>>> {
        loop {
            if let Some(rows) = sorted.rows.take() {
                self.step(rows.len() * (1 + rows.types().len())).await;
                return Ok(Some((0..rows.len()).map(|row| rows.row(row)).collect()));
            }
            let Some(part) = sorted.rows.next_part() else { return Ok(None) };
            match self.run_job(Job::ReadSorted(part)).await {
                JobResult::Sorted(rows) => {
                    sorted.memory.hold(SORTED_FORMS * rows.bytes() as u64)?;
                    sorted.rows.put(rows);
                }
                JobResult::Refused(cause) => return Err(cause),
                other => unreachable!("what is sorted is read, not {other:?}"),
            }
        }
    }

    /// The next rows, at least one, in order.
    pub(crate) async fn next_rows(&self, rows: &mut Rows) -> Result<Option<Vec<Row>>> {
        self.next_wanted(rows, u64::MAX).await
    }

    /// The next rows, at least one, in order, for whoever wants so many before they may end.
    fn next_wanted<'a>(&'a self, rows: &'a mut Rows, wanted: u64) -> BoxFuture<'a, Result<Option<Vec<Row>>>> {
        Box::pin(async move {
            while rows.left > 0 {
                // Perhaps not each row of the source is given, but no fewer than these are needed.
                let wanted = rows.left.min(wanted);
                let chunk = match &mut rows.source {
                    RowsSource::Tree(cursor) => self.next(cursor, wanted).await?,
                    RowsSource::Index(cursor, entries) => {
                        if entries.found.is_empty()
                            && let Some(found) = self.next(cursor, wanted).await?
                        {
                            entries.found = found.into();
                        }
                        match entries.take(wanted) {
                            chunk if chunk.is_empty() => None,
                            chunk => Some(self.complete(cursor, chunk).await?),
                        }
                    }
                    RowsSource::Rows(rows) => self.next_wanted(rows, wanted).await?,
                    RowsSource::Sorted(sorted) => self.next_sorted(sorted).await?,
                };
                let Some(mut chunk) = chunk else {
                    return Ok(None);
                };
                self.step(chunk.len()).await;
                chunk.retain(|row| rows.conditions.iter().all(|condition| condition.is_met(row)));
                chunk.truncate(usize::try_from(rows.left).unwrap_or(usize::MAX));
                rows.left -= chunk.len() as u64;
                if let Some(output) = &rows.output {
                    for row in &mut chunk {
                        *row = output.iter().map(|i| row[*i].clone()).collect();
                    }
                }
                if !chunk.is_empty() {
                    return Ok(Some(chunk));
                }
            }
            Ok(None)
        })
    }

    /// The first row, if there is one.
    pub(crate) async fn first_row(&self, rows: &Rowset) -> Result<Option<Row>> {
        let mut rows = self.open_rows(rows).await?;
        rows.limit(1);
        Ok(self.next_rows(&mut rows).await?.map(|chunk| chunk[0].clone()))
    }

    /// How many rows there are.
    pub(crate) async fn count_rows(&self, rows: &Rowset) -> Result<u64> {
        match rows {
            Rowset::Collection(collection) => self.count(collection, 0, KeyRange::all(), &[], u64::MAX).await,
            Rowset::View(view) => {
                if let Rowset::Collection(collection) = view.base() {
                    let plan = plan(&collection.schema, view.conditions(), None, false, &[]);
                    if !plan.completes {
                        let rows_max = view.limit().unwrap_or(u64::MAX);
                        return self
                            .count(collection, plan.tree, plan.range, &plan.conditions, rows_max)
                            .await;
                    }
                }
                let mut rows = self.open_view(rows, false).await?;
                let mut count = 0;
                while let Some(chunk) = self.next_rows(&mut rows).await? {
                    count += chunk.len() as u64;
                }
                Ok(count)
            }
        }
    }

    /// What it takes to read all rows: the index, pages and rows that are read for how many rows.
    pub(crate) async fn explain(&self, rows: &Rowset) -> Result<State> {
        let mut rows = self.open_rows(rows).await?;
        let mut count = 0;
        while let Some(chunk) = self.next_rows(&mut rows).await? {
            count += chunk.len() as u64;
        }
        let touched = rows.touched();
        let number = |number: u64| State::from(Number::U64(number));
        State::map(
            [
                (Id::literal("index"), State::string(rows.index.as_str())),
                (Id::literal("pages"), number(touched.pages)),
                (Id::literal("pages_read"), number(touched.pages_read)),
                (Id::literal("rows_read"), number(touched.rows_read)),
                (Id::literal("rows"), number(count)),
            ]
            .into(),
        )
    }
}
