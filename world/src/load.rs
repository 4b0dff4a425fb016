//! From what is stored to what a world begins with: numbers of chains, subjects, blocks, each of them verified.
//!
//! A chain that does not verify is refused, never repaired; the others are served.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bumpalo::Bump;
use bytes::Bytes;
use components::hosting::cluster::{Catalog, ChainSpec, ClusterConfig};
use components::hosting::storage::{Keyspace, Read, Write};
use components::hosting::versions::PagePlace;
use components::language::chain::{
    BlockHash, BlockHasher, BlockPredecessor, ChainAddress, ChainKind, ClosedBlock, FIRST_BLOCK, Mutation,
};
use components::language::encode::Stored;
use components::language::{decode, tbon};
use components::rows::bulk::BulkRows;
use components::rows::change::Change;
use components::rows::columns::Columns;
use components::rows::delta::DeltaEntry;
use components::rows::key::Key;
use components::rows::merge::merge;
use components::rows::page::{Page, PageCell, Tree};
use components::rows::scan::{Task, in_turn};
use components::rows::schema::{ColumnType, Layout, Schema, is_row_of};
use components::rows::sorter::OpenScratch;
use components::rows::staged::Unmerged;
use components::rows::stored;
use components::rows::stored::Effects;
use components::transaction::job::{Job, JobResult};
use components::value::document::Document;
use components::value::ids::{ChainId, PageId, TreeId};
use components::{Error, Path, State, TxnId};
use sha2::{Digest, Sha256};
use systems::apply::{block_key, delta_key, subject_key};
use systems::execute::panic_message;
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
    /// The running hash of the open block.
    pub open: Option<BlockHasher>,
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
    /// Its size, in bytes of TBON.
    pub bytes: u64,
}

/// What a host begins with.
#[derive(Debug)]
pub struct Loaded {
    /// What it serves.
    pub catalog: Catalog,
    /// The chains that it serves.
    pub chains: Vec<LoadedChain>,
    /// The last name that may have been given to a page.
    pub last_page: PageId,
    /// The pages that were in no tree any more when the host stopped, or not yet: they are to be deleted.
    pub garbage: Vec<PageId>,
    /// What has to be stored before the first request: chains that are new.
    pub writes: Vec<Write>,
}

/// How far the names of new pages keep from the last one that is known of, if not all of them are known.
const UNKNOWN_PAGES: u64 = 1 << 32;

/// Load what the given configurations name; chains that were never stored begin with their initial values. A chain that
/// is damaged is [refused](Catalog::refused).
///
/// `key` gives the public key of the cluster at a path.
///
/// # Errors
/// Why the host must not start: the catalog of what is stored is damaged, or it contradicts the configurations.
pub fn load(
    storage: &dyn Read,
    configs: Vec<ClusterConfig>,
    mut catalog: Catalog,
    mut key: impl FnMut(&Path) -> [u8; 32],
) -> Result<Loaded, String> {
    let mut known = stored_catalog(storage)?;
    let mut next = known.values().map(|entry| entry.0.0 + 1).max().unwrap_or(0);
    let mut chains = Vec::new();
    let mut specs = BTreeMap::new();
    let mut writes = Vec::new();
    for config in configs {
        for mut spec in config.chains() {
            let address = spec.address.to_string();
            match known.get(&address) {
                Some((id, kind, initial)) => {
                    check_as_stored(&address, &spec, kind, initial)?;
                    // The history begins with the value that it was made with, whatever is configured now.
                    spec.schema = initial.clone();
                    let id = *id;
                    specs.insert(id, spec.clone());
                    let loaded = match storage.damage(id) {
                        Some(damage) => Err(damage),
                        None => load_chain(storage, id, spec, &mut writes),
                    };
                    match loaded {
                        Ok(loaded) => chains.push(loaded),
                        Err(why) => {
                            catalog.refused.insert(id, why.into());
                        }
                    }
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
    if !catalog.refused.is_empty() {
        // A storage that has failed altogether is no reason to refuse chains one by one.
        storage.get(Keyspace::Meta, b"readable")?;
    }
    // What is stored wins over what is configured, also for whoever asks the catalog.
    catalog.chains.append(&mut specs);
    let garbage = stored_garbage(storage)?;
    let last_page = last_page(storage, &known, &chains, &garbage)?;
    Ok(Loaded { catalog, chains, last_page, garbage, writes })
}

/// An error if a chain is stored as another one than it is configured.
fn check_as_stored(address: &str, spec: &ChainSpec, kind: &str, initial: &State) -> Result<(), String> {
    let configured = spec.kind.class().path();
    if kind != configured {
        return Err(format!("{address} is stored as a {kind}, but configured as a {configured}"));
    }
    if !initial_matches(initial, &spec.schema) {
        return Err(format!(
            "{address} is stored with the schema {}, but configured with {}",
            shown(initial),
            shown(&spec.schema)
        ));
    }
    Ok(())
}

/// The last name that was ever given to a page, as far as is known, or one that comes later.
fn last_page(
    storage: &dyn Read,
    known: &KnownChains,
    chains: &[LoadedChain],
    garbage: &[PageId],
) -> Result<PageId, String> {
    let pages = chains.iter().flat_map(|chain| &chain.collections.slots).flat_map(|(_, trees)| trees);
    let pages = pages.flat_map(Tree::iter).filter_map(|(_, page)| page.base.as_ref().map(|cell| cell.id()));
    let mut last_page = pages.chain(garbage.iter().copied()).max().unwrap_or_default();
    // Chains that are not served keep their pages, too.
    let served: BTreeSet<ChainId> = chains.iter().map(|chain| chain.id).collect();
    let mut is_all_known = true;
    for (id, ..) in known.values().filter(|(id, ..)| !served.contains(id)) {
        let pages = each_entry(storage, Keyspace::Trees, &stored::handle_prefix(*id), |key, _| {
            let (_, page) = stored::parse_handle_key(key).ok_or("the key of a page is malformed")?;
            last_page = last_page.max(page);
            Ok(())
        });
        is_all_known &= pages.is_ok() && storage.damage(*id).is_none();
    }
    if !is_all_known {
        last_page.0 += UNKNOWN_PAGES;
    }
    // What an earlier version has stored knows no more than the pages that there are.
    if let Some(value) = storage.get(Keyspace::Meta, &stored::last_page_key())? {
        last_page = last_page.max(stored::parse_last_page(&value)?);
    }
    Ok(last_page)
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
    components::language::encode::to_json(state).unwrap_or_else(|error| error.to_string())
}

/// The pages that are in no tree.
pub(crate) fn stored_garbage(storage: &dyn Read) -> Result<Vec<PageId>, String> {
    let mut pages = Vec::new();
    each_entry(storage, Keyspace::Trees, &stored::garbage_prefix(), |key, _| {
        pages.push(stored::parse_garbage_key(key).ok_or("the key of a page is malformed")?);
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
                None => Ok(Tree::empty()),
                Some(mut pages) => {
                    pages.sort_by(|(this, _), (that, _)| this.cmp(that));
                    Tree::stored(pages)
                        .map_err(|why| format!("tree {} of collection {slot}: {why}", tree.tree))
                }
            }
        });
        let trees = trees.collect::<Result<_, String>>()?;
        loaded.slots.push((schema, trees));
    }
    if let Some((tree, _)) = pages.first_key_value() {
        return Err(format!(
            "there are pages of tree {} of collection {}, which it lacks",
            tree.tree, tree.slot
        ));
    }
    let mut newest = TxnId::ZERO;
    let mut last_commit = 0;
    let mut repeated = Repeated::default();
    each_entry(storage, Keyspace::Values, &stored::effects_prefix(id), |key, value| {
        let last = stored::parse_effects_key(key).ok_or("the key of effects is malformed")?;
        loaded.effects.insert(last, value.len() as u64);
        for effects in stored::parse_effects(value)? {
            if effects.commit <= last_commit {
                return Err(format!(
                    "effects of commit {} are stored after those of {last_commit}",
                    effects.commit
                ));
            }
            newest = newest.max(effects.id);
            last_commit = effects.commit;
            loaded.last_commit = loaded.last_commit.max(last_commit);
            repeat(id, effects, &mut loaded, &mut repeated)?;
        }
        Ok(())
    })?;
    for ((tree_id, low), (entries, rows)) in repeated {
        let tree = &mut loaded.slots[usize::from(tree_id.slot)].1[usize::from(tree_id.tree)];
        let page = tree.page_mut(&low).1;
        let is_fitting = page.rows.checked_add_signed(rows).is_some();
        if !is_fitting {
            return Err("effects delete more rows than there are".to_string());
        }
        page.commit_all(entries, rows);
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
        let mut rows = changes.iter().flat_map(|change| [&change.old, &change.new]).flatten();
        if !rows.all(|row| is_row_of(schema, row)) {
            return Err(format!("effects of commit {} do not fit the columns", effects.commit));
        }
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
pub(crate) type KnownChains = BTreeMap<String, (ChainId, String, State)>;

/// The chains that were ever stored.
pub(crate) fn stored_catalog(storage: &dyn Read) -> Result<KnownChains, String> {
    let mut known = BTreeMap::new();
    each_entry(storage, Keyspace::Catalog, &[], |_, value| {
        let arena = Bump::new();
        match tbon::parse_stored(value, &arena).map_err(|error| error.to_string())? {
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
        writes.push(put(Keyspace::Blocks, block_key(id, 0), BlockPredecessor::None.encode().into()));
        blocks.push(LoadedBlock { previous: None, transactions: 0, bytes: 0 });
    }
    let open = (spec.kind == ChainKind::Block).then(|| BlockHasher::new(FIRST_BLOCK));
    let subject = if collections.slots.is_empty() { spec.schema.clone() } else { State::NONE };
    let last = TxnId::ZERO;
    LoadedChain { id, spec, last, subject, collections, deltas: Vec::new(), delta_bytes: 0, blocks, open }
}

/// A chain as it was stored. Writes that spare the next start some reading are added to `writes`.
///
/// # Errors
/// Why it must be refused.
pub(crate) fn load_chain(
    storage: &dyn Read,
    id: ChainId,
    spec: ChainSpec,
    writes: &mut Vec<Write>,
) -> Result<LoadedChain, String> {
    let mut own = Vec::new();
    // What is damaged is found by checks; if one is missing, that must not take the other chains along.
    let loaded = catch_unwind(AssertUnwindSafe(|| read_chain(storage, id, spec, &mut own)));
    let loaded =
        loaded.unwrap_or_else(|panic| Err(format!("it cannot be read: {}", panic_message(&*panic))))?;
    writes.append(&mut own);
    Ok(loaded)
}

fn read_chain(
    storage: &dyn Read,
    id: ChainId,
    spec: ChainSpec,
    writes: &mut Vec<Write>,
) -> Result<LoadedChain, String> {
    match spec.collections().is_empty() {
        true => read_chain_of_value(storage, id, spec, writes),
        false => read_chain_of_collections(storage, id, spec, writes),
    }
}

fn read_chain_of_collections(
    storage: &dyn Read,
    id: ChainId,
    spec: ChainSpec,
    writes: &mut Vec<Write>,
) -> Result<LoadedChain, String> {
    let (collections, newest) = load_collections(storage, id, &spec)?;
    let (history, last) = match spec.kind {
        ChainKind::Sync => (None, newest),
        ChainKind::Block => {
            let history = load_blocks(storage, id, writes)?;
            let last = history.newest;
            if newest > last {
                return Err(format!("its history ends with {last}, but its rows with {newest}"));
            }
            (Some(history), last)
        }
    };
    let (blocks, open) = history.map(|history| (history.blocks, history.open)).unzip();
    let blocks = blocks.unwrap_or_default();
    let (subject, deltas, delta_bytes) = (State::NONE, Vec::new(), 0);
    Ok(LoadedChain { id, spec, last, subject, collections, deltas, delta_bytes, blocks, open })
}

fn read_chain_of_value(
    storage: &dyn Read,
    id: ChainId,
    spec: ChainSpec,
    writes: &mut Vec<Write>,
) -> Result<LoadedChain, String> {
    let whole = storage.get(Keyspace::Values, &subject_key(id))?.ok_or("its subject is missing")?;
    let arena = Bump::new();
    let (mut last, mut subject) =
        match tbon::parse_stored(&whole, &arena).map_err(|error| error.to_string())? {
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
        let repeated = decode::each_stored_mutation(value, |mutation| {
            subject = mutation.repeat(&subject)?;
            delta_bytes += mutation.bytes();
            Ok(())
        });
        repeated.map_err(|error| format!("transaction {delta}: {error}"))?;
        if delta <= last {
            return Err(format!("transaction {delta} is stored after {last}"));
        }
        last = delta;
        deltas.push(delta);
        Ok(())
    })?;
    let history = match spec.kind {
        ChainKind::Sync => None,
        ChainKind::Block => {
            let history = load_blocks(storage, id, writes)?;
            let newest = history.newest;
            if newest != last {
                return Err(format!("its history ends with {newest}, but its subject with {last}"));
            }
            Some(history)
        }
    };
    let (blocks, open) = history.map(|history| (history.blocks, history.open)).unzip();
    let blocks = blocks.unwrap_or_default();
    let collections = LoadedCollections::default();
    Ok(LoadedChain { id, spec, last, subject, collections, deltas, delta_bytes, blocks, open })
}

/// The blocks of a chain as they were stored.
pub(crate) struct LoadedHistory {
    /// The last one is open.
    pub(crate) blocks: Vec<LoadedBlock>,
    /// The running hash of that.
    pub(crate) open: BlockHasher,
    /// The last transaction.
    pub(crate) newest: TxnId,
}

/// What is stored of a block beside its transactions, if there is such a block.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn predecessor(
    storage: &dyn Read,
    chain: ChainId,
    ordinal: u32,
) -> Result<Option<BlockPredecessor>, String> {
    let stored = storage.get(Keyspace::Blocks, &block_key(chain, ordinal))?;
    let Some(stored) = stored else { return Ok(None) };
    match BlockPredecessor::decode(&stored) {
        Some(before) if before.hash().is_some() == (ordinal > 0) => Ok(Some(before)),
        _ => Err(format!("the header of block {ordinal} is malformed")),
    }
}

/// The blocks of a chain, each of them verified (page 04 §4.5): those that are not known to be are read, and from then on
/// they are known. The last one is read in any case, as it goes on.
fn load_blocks(storage: &dyn Read, id: ChainId, writes: &mut Vec<Write>) -> Result<LoadedHistory, String> {
    let mut blocks: Vec<LoadedBlock> = Vec::new();
    let mut newest = TxnId::ZERO;
    let mut before = predecessor(storage, id, 0)?.ok_or("its first block is missing")?;
    loop {
        let ordinal = blocks.len() as u32;
        let next = predecessor(storage, id, ordinal + 1)?;
        let previous = before.hash();
        if let Some(known @ BlockPredecessor::Known(ClosedBlock { bytes, transactions, newest: last, .. })) =
            next
        {
            if last <= newest {
                return Err(format!("block {ordinal} ends with {last}, which is not after {newest}"));
            }
            blocks.push(LoadedBlock { previous, transactions: transactions as usize, bytes });
            (newest, before) = (last, known);
            continue;
        }
        let read = read_block(storage, id, ordinal, newest, &mut |_, _| Ok(()))?;
        let (hash, bytes) = (read.hasher.hash(), read.hasher.bytes());
        newest = read.newest;
        blocks.push(LoadedBlock { previous, transactions: read.transactions as usize, bytes });
        let Some(next) = next else {
            check_end(storage, id, ordinal)?;
            return Ok(LoadedHistory { blocks, open: read.hasher, newest });
        };
        if next.hash() != Some(hash) {
            return Err(format!("block {} does not follow the block before it", ordinal + 1));
        }
        let closed = ClosedBlock { hash, bytes, transactions: read.transactions, newest };
        before = BlockPredecessor::Known(closed);
        let value = Some(before.encode().into());
        writes.push(Write { keyspace: Keyspace::Blocks, key: block_key(id, ordinal + 1), value });
    }
}

/// Check that nothing is stored beyond the last block of a chain.
fn check_end(storage: &dyn Read, id: ChainId, last: u32) -> Result<(), String> {
    let prefix = id.0.to_be_bytes();
    let beyond = storage.scan(Keyspace::Blocks, &prefix, Some(&block_key(id, last + 1)), 1)?;
    if beyond.is_empty() {
        return Ok(());
    }
    Err(format!("the header of block {} is missing, but there is more of its history", last + 1))
}

/// A block that was read.
pub(crate) struct ReadBlock {
    /// Its hash and size.
    pub(crate) hasher: BlockHasher,
    /// How many transactions are in it.
    pub(crate) transactions: u64,
    /// The last transaction up to its end.
    pub(crate) newest: TxnId,
}

/// Read a block whose transactions come after `newest`, and visit what each has recorded.
///
/// # Errors
/// Why it cannot be read; the errors of `visit`.
pub(crate) fn read_block(
    storage: &dyn Read,
    chain: ChainId,
    ordinal: u32,
    newest: TxnId,
    visit: &mut dyn FnMut(TxnId, Mutation) -> components::Result<()>,
) -> Result<ReadBlock, String> {
    let before =
        predecessor(storage, chain, ordinal)?.ok_or_else(|| format!("block {ordinal} is missing"))?;
    let previous = before.hash().map_or_else(Vec::new, |hash| hash.to_vec());
    let mut read = ReadBlock { hasher: BlockHasher::new(&previous), transactions: 0, newest };
    let prefix = block_key(chain, ordinal);
    each_entry(storage, Keyspace::Blocks, &prefix, |key, value| {
        if key.len() == prefix.len() {
            return Ok(());
        }
        let id = transaction_of(key, prefix.len())?;
        if id <= read.newest {
            return Err(format!("block {ordinal} holds {id}, which is not after {}", read.newest));
        }
        read.hasher.begin(id);
        let visited = decode::each_stored_mutation(value, |mutation| {
            read.hasher.record(&mutation);
            visit(id, mutation)
        });
        visited.map_err(|error| format!("block {ordinal}: transaction {id}: {error}"))?;
        read.hasher.end();
        (read.newest, read.transactions) = (id, read.transactions + 1);
        Ok(())
    })?;
    Ok(read)
}

/// Read what a world has asked for.
pub fn perform(storage: &dyn Read, load: &Load) -> Input {
    match load {
        Load::Page { page, types } => {
            Input::Page { page: *page, content: sound(|| load_page(storage, *page, types)) }
        }
    }
}

/// What is read, if it can be: a decoder that panics has met damage that it does not know, which is no reason for the
/// thread to end on which others wait.
fn sound<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(panic_message(&*panic)))
}

/// Do what a world has asked for; with the other threads of the pool that this runs on, if `is_parallel`. What does not fit
/// in memory goes to `scratch`.
pub fn work(
    storage: &(dyn Read + Sync),
    scratch: &OpenScratch<'_>,
    job: &Job,
    is_parallel: bool,
) -> JobResult {
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
        Job::Gather(changes) => Ok(JobResult::Gathered(changes.gather())),
        // With the job, which nobody else has.
        Job::LetGo(_) => Ok(JobResult::Gone),
        Job::Sort(gathered) => Ok(match gathered.spill(scratch) {
            Ok(spilled) => JobResult::Spilled(spilled),
            Err(cause) => JobResult::Refused(cause),
        }),
        Job::ReadSorted(part) => Ok(part.read().map_or_else(JobResult::Refused, JobResult::Sorted)),
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
    |cell, layout| {
        let content = load_page(storage, cell.id(), &layout.types);
        content.map(Arc::new).map_err(|cause| format!("page {} cannot be read: {cause}", cell.id().0))
    }
}

/// Read the content of a page.
///
/// # Errors
/// Why it cannot be read.
pub fn load_page(storage: &dyn Read, page: PageId, types: &Arc<[ColumnType]>) -> Result<Columns, String> {
    let content = storage.get(Keyspace::Pages, &stored::page_key(page))?;
    Columns::decode(types, content.ok_or("it is missing")?)
}

fn transaction_of(key: &[u8], prefix_len: usize) -> Result<TxnId, String> {
    key[prefix_len..].try_into().map(TxnId::from_bytes).map_err(|_| "a key is malformed".to_string())
}

/// Call `visit` with every entry whose key begins with `prefix`, in order.
pub(crate) fn each_entry(
    storage: &dyn Read,
    keyspace: Keyspace,
    prefix: &[u8],
    visit: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    each_entry_of(storage, keyspace, prefix, SCAN_ENTRIES, visit)
}

/// As [`each_entry`], with so many entries in memory at a time.
pub(crate) fn each_entry_of(
    storage: &dyn Read,
    keyspace: Keyspace,
    prefix: &[u8],
    at_a_time: usize,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let entries = storage.scan(keyspace, prefix, from.as_deref(), at_a_time)?;
        for (key, value) in &entries {
            visit(key, value)?;
        }
        match entries.last() {
            // The next key after this one.
            Some((key, _)) if entries.len() == at_a_time => from = Some([key, &[0][..]].concat()),
            _ => return Ok(()),
        }
    }
}
