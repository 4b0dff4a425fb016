//! From what is stored to what a world begins with: numbers of chains, subjects, blocks, each of them verified.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bumpalo::Bump;
use bytes::Bytes;
use components::chain::{Block, BlockHash, BlockHasher, ChainAddress, ChainKind, FIRST_BLOCK};
use components::cluster::{Catalog, ChainId, ChainSpec, ClusterConfig};
use components::collection::bulk::BulkRows;
use components::collection::change::Change;
use components::collection::columns::Columns;
use components::collection::delta::DeltaEntry;
use components::collection::key::Key;
use components::collection::merge::merge;
use components::collection::page::{Page, PageCell, PageId, Tree};
use components::collection::scan::{Task, in_turn};
use components::collection::schema::{ColumnType, Layout, Schema};
use components::collection::staged::Unmerged;
use components::collection::stored::{self, Effects};
use components::document::Document;
use components::encode::Stored;
use components::job::{Job, JobResult};
use components::lock::TreeId;
use components::storage::{Keyspace, Read, Write};
use components::versions::PagePlace;
use components::{Error, Path, State, TxnId, decode, tbon};
use sha2::{Digest, Sha256};
use systems::apply::{block_header_value, block_key, delta_key, subject_key};
use systems::tick::{Input, Load};

/// How many entries are read from storage at a time.
const SCAN_ENTRIES: usize = 4_096;

/// A chain as it was stored.
#[derive(Debug)]
pub struct LoadedChain {
    /// Its number.
    pub id: ChainId,
    /// What it was declared as when it was made.
    pub spec: ChainSpec,
    /// The last transaction that changed it.
    pub last: TxnId,
    /// Its subject; nothing if that is collections.
    pub subject: State,
    /// Its collections, and what recovery has repeated on them.
    pub collections: LoadedCollections,
    /// The transactions whose changes are stored beside the subject.
    pub deltas: Vec<TxnId>,
    /// The size of those changes, in bytes.
    pub delta_bytes: u64,
    /// Its blocks, if it keeps them; the last one is open.
    pub blocks: Vec<LoadedBlock>,
}

/// The collections of a chain as they were stored, with nothing in memory but what recovery has repeated.
#[derive(Debug, Default)]
pub struct LoadedCollections {
    /// The schema and the trees of each.
    pub slots: Vec<(Arc<Schema>, Vec<Tree>)>,
    /// The size of each stored value of effects, by the last commit in it.
    pub effects: BTreeMap<u64, u64>,
    /// The pages that hold what their stored form lacks.
    pub dirty: BTreeSet<PagePlace>,
    /// The newest commit that is known of.
    pub last_commit: u64,
}

/// A block as it was stored, without its content.
#[derive(Debug)]
pub struct LoadedBlock {
    /// The hash of the block before it.
    pub previous: Option<BlockHash>,
    /// How many transactions are in it.
    pub transactions: usize,
    /// Its hash and size.
    pub hasher: BlockHasher,
}

/// What a host begins with.
#[derive(Debug)]
pub struct Loaded {
    /// What it serves.
    pub catalog: Catalog,
    /// The chains that it serves.
    pub chains: Vec<LoadedChain>,
    /// The last name that was given to a page.
    pub last_page: PageId,
    /// What has to be stored before the first request: chains that are new, and no more pages that nobody needs.
    pub writes: Vec<Write>,
}

/// Load what the given configurations name; chains that were never stored begin with their initial values.
///
/// `key` gives the public key of the cluster at a path.
///
/// # Errors
/// Why the host must not start: what is stored is damaged, or contradicts the configurations.
pub fn load(
    storage: &dyn Read,
    configs: Vec<ClusterConfig>,
    mut catalog: Catalog,
    mut key: impl FnMut(&Path) -> [u8; 32],
) -> Result<Loaded, String> {
    let mut known = stored_catalog(storage)?;
    let mut next = known.values().map(|entry| entry.0.0 + 1).max().unwrap_or(0);
    let mut chains = Vec::new();
    let mut writes = Vec::new();
    for config in configs {
        for mut spec in config.chains() {
            let address = spec.address.to_string();
            match known.get(&address) {
                Some((id, kind, initial)) => {
                    if *kind != spec.kind.class().path() {
                        return Err(format!(
                            "{address} is stored as a {kind}, but configured as a {}",
                            spec.kind.class().path()
                        ));
                    }
                    if !initial_matches(initial, &spec.schema) {
                        return Err(format!(
                            "{address} is stored with the schema {}, but configured with {}",
                            shown(initial),
                            shown(&spec.schema)
                        ));
                    }
                    // The history begins with the value that it was made with, whatever is configured now.
                    spec.schema = initial.clone();
                    let loaded = load_chain(storage, *id, spec).map_err(|why| format!("{address}: {why}"))?;
                    chains.push(loaded);
                }
                None => {
                    let id = ChainId(next);
                    next += 1;
                    let kind = spec.kind.class().path();
                    known.insert(address, (id, kind.to_string(), spec.schema.clone()));
                    chains.push(new_chain(id, spec, &mut writes));
                }
            }
        }
        let path = config.path.clone();
        let numbered = |address: &ChainAddress| known[&address.to_string()].0;
        catalog.add(config, key(&path), numbered).map_err(|error| error.message().to_string())?;
    }
    // What is stored wins over what is configured, also for whoever asks the catalog.
    for chain in &chains {
        catalog.chains.insert(chain.id, chain.spec.clone());
    }
    let garbage = stored_garbage(storage, &mut writes)?;
    let pages = chains.iter().flat_map(|chain| &chain.collections.slots).flat_map(|(_, trees)| trees);
    let pages = pages.flat_map(Tree::iter).filter_map(|(_, page)| page.base.as_ref().map(|cell| cell.id()));
    let last_page = pages.chain(garbage).max().unwrap_or_default();
    Ok(Loaded { catalog, chains, last_page, writes })
}

/// Whether what is configured can go on with what is stored: a value begins as it began once, collections stay as they
/// are.
fn initial_matches(stored: &State, configured: &State) -> bool {
    match (stored, configured) {
        (State::Collection(stored), State::Collection(configured)) => stored.schema == configured.schema,
        (State::Tuple(stored), State::Tuple(configured))
            if stored.iter().chain(&**configured).any(is_collection) =>
        {
            let mut pairs = stored.iter().zip(configured.iter());
            stored.len() == configured.len()
                && pairs.all(|(stored, configured)| initial_matches(stored, configured))
        }
        (stored, configured) => !is_collection(stored) && !is_collection(configured),
    }
}

fn is_collection(state: &State) -> bool {
    matches!(state, State::Collection(_))
}

fn shown(state: &State) -> String {
    components::encode::to_json(state).unwrap_or_else(|error| error.to_string())
}

/// The pages that were in no tree any more when the host stopped; they are deleted.
fn stored_garbage(storage: &dyn Read, writes: &mut Vec<Write>) -> Result<Vec<PageId>, String> {
    let mut pages = Vec::new();
    each_entry(storage, Keyspace::Trees, &stored::garbage_prefix(), |key, _| {
        let page = stored::parse_garbage_key(key).ok_or("the key of a page is malformed")?;
        for (keyspace, key) in [(Keyspace::Pages, stored::page_key(page)), (Keyspace::Trees, key.to_vec())] {
            writes.push(Write { keyspace, key, value: None });
        }
        pages.push(page);
        Ok(())
    })?;
    Ok(pages)
}

/// The collections of a chain: the pages as they were stored, and what was committed since.
fn load_collections(
    storage: &dyn Read,
    id: ChainId,
    spec: &ChainSpec,
) -> Result<(LoadedCollections, TxnId), String> {
    let schemas = spec.collections();
    let mut pages: BTreeMap<TreeId, Vec<(Key, Page)>> = BTreeMap::new();
    let mut loaded = LoadedCollections::default();
    each_entry(storage, Keyspace::Trees, &stored::handle_prefix(id), |key, value| {
        let (tree, page) = stored::parse_handle_key(key).ok_or("the key of a page is malformed")?;
        let (low, page) = stored::parse_handle(page, value)?;
        loaded.last_commit = loaded.last_commit.max(page.through);
        pages.entry(tree).or_default().push((low, page));
        Ok(())
    })?;
    for (slot, schema) in schemas.into_iter().enumerate() {
        let trees = (0..schema.layouts().len()).map(|tree| {
            let tree = TreeId { chain: id, slot: slot as u16, tree: tree as u16 };
            match pages.remove(&tree) {
                None => Tree::empty(),
                Some(mut pages) => {
                    pages.sort_by(|(this, _), (that, _)| this.cmp(that));
                    Tree::of(pages)
                }
            }
        });
        let trees = trees.collect();
        loaded.slots.push((schema, trees));
    }
    if let Some((tree, _)) = pages.first_key_value() {
        return Err(format!(
            "there are pages of tree {} of collection {}, which it lacks",
            tree.tree, tree.slot
        ));
    }
    let mut newest = TxnId::ZERO;
    let mut repeated = Repeated::default();
    each_entry(storage, Keyspace::Values, &stored::effects_prefix(id), |key, value| {
        let last = stored::parse_effects_key(key).ok_or("the key of effects is malformed")?;
        loaded.effects.insert(last, value.len() as u64);
        for effects in stored::parse_effects(value)? {
            newest = newest.max(effects.id);
            loaded.last_commit = loaded.last_commit.max(effects.commit);
            repeat(id, effects, &mut loaded, &mut repeated)?;
        }
        Ok(())
    })?;
    for ((tree_id, low), (entries, rows)) in repeated {
        let tree = &mut loaded.slots[usize::from(tree_id.slot)].1[usize::from(tree_id.tree)];
        tree.page_mut(&low).1.commit_all(entries, rows);
        tree.rows = tree.rows.checked_add_signed(rows).ok_or("effects do not fit the pages")?;
        loaded.dirty.insert((tree_id, low));
    }
    Ok((loaded, newest))
}

/// What transactions did on the pages that lack it, and how many rows each has more then.
type Repeated = BTreeMap<PagePlace, (Vec<DeltaEntry>, i64)>;

/// Do again what a transaction did, on the pages that lack it.
fn repeat(
    chain: ChainId,
    effects: Effects,
    loaded: &mut LoadedCollections,
    repeated: &mut Repeated,
) -> Result<(), String> {
    for (slot, changes) in &effects.rows {
        let (schema, trees) = loaded
            .slots
            .get_mut(usize::from(*slot))
            .ok_or("there are effects on a collection that is missing")?;
        for change in changes.iter().flat_map(|change| change.in_trees(schema)) {
            let (low, page) = trees[change.tree].page(&change.key);
            if page.through >= effects.commit {
                continue;
            }
            let place = (TreeId { chain, slot: *slot, tree: change.tree as u16 }, low.clone());
            let (entries, rows) = repeated.entry(place).or_default();
            let Change { key, row, .. } = change;
            entries.push(DeltaEntry { key, id: effects.id, commit: effects.commit, row });
            *rows += change.rows;
        }
    }
    Ok(())
}

fn catalog_key(address: &str) -> Vec<u8> {
    Sha256::digest(address.as_bytes()).to_vec()
}

/// Number, kind and initial value of every chain that was ever stored, by address.
fn stored_catalog(storage: &dyn Read) -> Result<BTreeMap<String, (ChainId, String, State)>, String> {
    let mut known = BTreeMap::new();
    each_entry(storage, Keyspace::Catalog, &[], |_, value| {
        let arena = Bump::new();
        match tbon::parse(value, &arena).map_err(|error| error.to_string())? {
            Document::List(
                [Document::String(address), Document::Number(id), Document::String(kind), initial],
            ) => {
                let id =
                    id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or("a chain without a number")?;
                let initial = decode::stored(*initial).map_err(|error| error.to_string())?;
                known.insert(address.to_string(), (ChainId(id), kind.to_string(), initial));
                Ok(())
            }
            _ => Err("an entry of the catalog is malformed".to_string()),
        }
    })?;
    Ok(known)
}

fn new_chain(id: ChainId, spec: ChainSpec, writes: &mut Vec<Write>) -> LoadedChain {
    let address = spec.address.to_string();
    let entry = tbon::encode(&(&address, id.0, spec.kind.class().path(), Stored(&spec.schema)));
    let put = |keyspace, key, value: Bytes| Write { keyspace, key, value: Some(value) };
    writes.push(put(Keyspace::Catalog, catalog_key(&address), entry.into()));
    let schemas = spec.collections();
    if schemas.is_empty() {
        let subject = tbon::encode(&(TxnId::ZERO.to_string(), Stored(&spec.schema)));
        writes.push(put(Keyspace::Values, subject_key(id), subject.into()));
    }
    let slots = schemas.into_iter().map(|schema| {
        let trees = vec![Tree::empty(); schema.layouts().len()];
        (schema, trees)
    });
    let collections = LoadedCollections { slots: slots.collect(), ..Default::default() };
    let mut blocks = Vec::new();
    if spec.kind == ChainKind::Block {
        writes.push(put(Keyspace::Blocks, block_key(id, 0), block_header_value(None)));
        blocks.push(LoadedBlock { previous: None, transactions: 0, hasher: BlockHasher::new(FIRST_BLOCK) });
    }
    let subject = if collections.slots.is_empty() { spec.schema.clone() } else { State::NONE };
    let last = TxnId::ZERO;
    LoadedChain { id, spec, last, subject, collections, deltas: Vec::new(), delta_bytes: 0, blocks }
}

fn load_chain(storage: &dyn Read, id: ChainId, spec: ChainSpec) -> Result<LoadedChain, String> {
    if !spec.collections().is_empty() {
        let (collections, newest) = load_collections(storage, id, &spec)?;
        let (blocks, last) = match spec.kind {
            ChainKind::Sync => (Vec::new(), newest),
            ChainKind::Block => {
                let (blocks, last) = load_blocks(storage, id)?;
                if newest > last {
                    return Err(format!("its history ends with {last}, but its rows with {newest}"));
                }
                (blocks, last)
            }
        };
        let subject = State::NONE;
        return Ok(LoadedChain {
            id,
            spec,
            last,
            subject,
            collections,
            deltas: Vec::new(),
            delta_bytes: 0,
            blocks,
        });
    }
    let whole = storage.get(Keyspace::Values, &subject_key(id))?.ok_or("its subject is missing")?;
    let arena = Bump::new();
    let (mut last, mut subject) = match tbon::parse(&whole, &arena).map_err(|error| error.to_string())? {
        Document::List([Document::String(last), subject]) => (
            last.parse::<TxnId>().map_err(|error| error.to_string())?,
            decode::stored(*subject).map_err(|error| error.to_string())?,
        ),
        _ => return Err("its subject is malformed".to_string()),
    };
    let mut deltas = Vec::new();
    let mut delta_bytes = 0;
    let prefix = &delta_key(id, TxnId::ZERO)[..5];
    each_entry(storage, Keyspace::Values, prefix, |key, value| {
        let delta = transaction_of(key, prefix.len())?;
        let arena = Bump::new();
        let document = tbon::parse(value, &arena).map_err(|error| error.to_string())?;
        for mutation in decode::stored_mutations(document).map_err(|error| error.to_string())? {
            subject = mutation.apply(&subject).map_err(|error| format!("transaction {delta}: {error}"))?;
            delta_bytes += mutation.bytes();
        }
        if delta <= last {
            return Err(format!("transaction {delta} is stored after {last}"));
        }
        last = delta;
        deltas.push(delta);
        Ok(())
    })?;
    let blocks = match spec.kind {
        ChainKind::Sync => Vec::new(),
        ChainKind::Block => {
            let (blocks, newest) = load_blocks(storage, id)?;
            if newest != last {
                return Err(format!("its history ends with {newest}, but its subject with {last}"));
            }
            blocks
        }
    };
    let collections = LoadedCollections::default();
    Ok(LoadedChain { id, spec, last, subject, collections, deltas, delta_bytes, blocks })
}

/// Read every block, and check that each follows the one before (page 04 §4.5).
fn load_blocks(storage: &dyn Read, id: ChainId) -> Result<(Vec<LoadedBlock>, TxnId), String> {
    let mut blocks: Vec<LoadedBlock> = Vec::new();
    let mut newest = TxnId::ZERO;
    while let Some(header) = storage.get(Keyspace::Blocks, &block_key(id, blocks.len() as u32))? {
        let ordinal = blocks.len() as u32;
        let expected = blocks.last().map_or_else(Vec::new, |block| block.hasher.hash().to_vec());
        if header != expected {
            return Err(format!("block {ordinal} does not follow the block before it"));
        }
        let content = load_block(storage, id, ordinal)?;
        if let Some((first, _)) = content.transactions.first()
            && *first <= newest
        {
            return Err(format!("block {ordinal} holds {first}, which is not after {newest}"));
        }
        newest = content.transactions.last().map_or(newest, |(id, _)| *id);
        blocks.push(LoadedBlock {
            previous: header.as_ref().try_into().ok(),
            transactions: content.transactions.len(),
            hasher: content.hasher(),
        });
    }
    if blocks.is_empty() {
        return Err("its first block is missing".to_string());
    }
    Ok((blocks, newest))
}

/// Read the content of a block.
///
/// # Errors
/// Why it cannot be read.
pub fn load_block(storage: &dyn Read, chain: ChainId, ordinal: u32) -> Result<Block, String> {
    let prefix = block_key(chain, ordinal);
    let mut block: Option<Block> = None;
    each_entry(storage, Keyspace::Blocks, &prefix, |key, value| {
        if key.len() == prefix.len() {
            block = Some(Block { previous: value.to_vec(), transactions: Vec::new() });
            return Ok(());
        }
        let block = block.as_mut().ok_or_else(|| format!("block {ordinal} has no header"))?;
        let id = transaction_of(key, prefix.len())?;
        let arena = Bump::new();
        let document = tbon::parse(value, &arena).map_err(|error| error.to_string())?;
        block.transactions.push((id, decode::stored_mutations(document).map_err(|error| error.to_string())?));
        Ok(())
    })?;
    block.ok_or_else(|| format!("block {ordinal} is missing"))
}

/// Read what a world has asked for.
pub fn perform(storage: &dyn Read, load: &Load) -> Input {
    match load {
        Load::Page { page, types } => Input::Page { page: *page, content: load_page(storage, *page, types) },
    }
}

/// Do what a world has asked for; with the other threads of the pool that this runs on, if `is_parallel`.
pub fn work(storage: &(dyn Read + Sync), job: &Job, is_parallel: bool) -> JobResult {
    let load = page_loader(storage);
    let join = |a: Task<'_>, b: Task<'_>| {
        if is_parallel {
            rayon::join(a, b);
        } else {
            in_turn(a, b);
        }
    };
    let result = match job {
        Job::Merge { bulk, trees } => match bulk.rows() {
            BulkRows::Resident(rows) => merge(bulk.schema(), rows, trees, &load, &join)
                .map(|merged| JobResult::Merged(Arc::new(merged))),
            BulkRows::Spilled(_) => unreachable!("rows that are not in memory are merged in parts"),
        },
        Job::MergePart(part) => match part.merge(&load) {
            Ok(merged) => Ok(JobResult::MergedPart(Arc::new(merged))),
            Err(Unmerged::Page(cause)) => Err(cause),
            Err(Unmerged::Scratch(cause)) => Ok(JobResult::Refused(Error::unavailable(format_args!(
                "the workspace has failed while rows were merged: {cause}"
            )))),
        },
        Job::Count { scan, parts, wanted } => {
            scan.count(parts, *wanted, &load, &join).map(JobResult::Counted)
        }
        Job::Find { scan, parts, bytes_max, wanted } => {
            scan.find(parts, *bytes_max, *wanted, &load, &join).map(JobResult::Found)
        }
    };
    result.unwrap_or_else(JobResult::Failed)
}

/// What reads the content of pages for those that do not need them to stay in memory.
pub fn page_loader(
    storage: &(dyn Read + Sync),
) -> impl Fn(&PageCell, &Layout) -> Result<Arc<Columns>, String> + Sync {
    |cell, layout| load_page(storage, cell.id(), &layout.types).map(Arc::new)
}

/// Read the content of a page.
///
/// # Errors
/// Why it cannot be read.
pub fn load_page(storage: &dyn Read, page: PageId, types: &Arc<[ColumnType]>) -> Result<Columns, String> {
    let content = storage.get(Keyspace::Pages, &stored::page_key(page))?;
    Columns::decode(types, content.ok_or_else(|| format!("page {} is missing", page.0))?)
}

fn transaction_of(key: &[u8], prefix_len: usize) -> Result<TxnId, String> {
    key[prefix_len..].try_into().map(TxnId::from_bytes).map_err(|_| "a key is malformed".to_string())
}

/// Call `visit` with every entry whose key begins with `prefix`, in order.
fn each_entry(
    storage: &dyn Read,
    keyspace: Keyspace,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let entries = storage.scan(keyspace, prefix, from.as_deref(), SCAN_ENTRIES)?;
        for (key, value) in &entries {
            visit(key, value)?;
        }
        match entries.last() {
            // The next key after this one.
            Some((key, _)) if entries.len() == SCAN_ENTRIES => from = Some([key, &[0][..]].concat()),
            _ => return Ok(()),
        }
    }
}
