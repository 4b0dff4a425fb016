//! The blocks of a history out of storage, one mutation after the other.
//!
//! A block is read a transaction at a time, and what a transaction has recorded a mutation at a time: so whoever reads a
//! history holds little of it, however long it is.

use std::collections::VecDeque;
use std::sync::Arc;

use bumpalo::Bump;
use bytes::Bytes;
use components::hosting::storage::{Keyspace, Read};
use components::language::chain::{Block, BlockHasher, HistorySnapshot, Mutation};
use components::language::encode::previous_json;
use components::language::{decode, tbon};
use components::value::ids::ChainId;
use components::{Error, Result, TxnId};
use systems::apply::block_key;

use crate::load::predecessor;

/// How many transactions of a block are read at once at most. All of them but the last are in the million bytes that a
/// block has before it is closed.
const SCAN_ENTRIES: usize = 4_096;

/// What comes next of a history.
#[derive(Debug)]
pub enum HistoryPart {
    /// A block begins, with the hash of the block before it.
    Block(Vec<u8>),
    /// A transaction begins.
    Transaction(TxnId),
    /// It has recorded this.
    Mutation(Mutation),
    /// It has recorded no more.
    EndTransaction,
    /// There are no more transactions in the block.
    EndBlock,
}

/// Reads a history from its first block to its last.
#[derive(Debug)]
pub struct HistoryReader {
    snapshot: Arc<HistorySnapshot>,
    /// The block that comes next.
    next: u32,
    block: Option<OpenBlock>,
    /// Whether something was written before what comes next, where a comma must stand between them.
    has_before: bool,
    /// For the mutation that is being decoded.
    arena: Bump,
}

/// A block that is being read.
#[derive(Debug)]
struct OpenBlock {
    ordinal: u32,
    hasher: BlockHasher,
    /// What was read of its transactions, and is next.
    entries: VecDeque<(TxnId, Bytes)>,
    /// From which key on the next ones are, if there may be more.
    from: Option<Vec<u8>>,
    /// Whether it is shown otherwise than the next block follows it: without what came later, or with what the reader has
    /// recorded itself.
    is_changed: bool,
    /// What the reader has recorded itself, if that comes last in this block.
    own: Option<(TxnId, Bytes)>,
    recorded: Option<Recorded>,
}

/// What a transaction has recorded, and what is next of it.
#[derive(Debug)]
struct Recorded {
    items: tbon::Items,
    bytes: Bytes,
}

impl HistoryReader {
    /// A reader of all of its blocks.
    pub fn new(snapshot: Arc<HistorySnapshot>) -> Self {
        let next = snapshot.blocks.start;
        Self { snapshot, next, block: None, has_before: false, arena: Bump::new() }
    }

    /// What comes next; nothing at the end.
    ///
    /// # Errors
    /// 500 if a block cannot be read, or is not the one that the next block follows.
    pub fn next(&mut self, storage: &dyn Read) -> Result<Option<HistoryPart>> {
        let ordinal = self.block.as_ref().map_or(self.next, |block| block.ordinal);
        self.next_part(storage).map_err(|cause| {
            Error::internal(format_args!("block {ordinal} of a history cannot be read: {cause}"))
        })
    }

    fn next_part(&mut self, storage: &dyn Read) -> std::result::Result<Option<HistoryPart>, String> {
        let chain = self.snapshot.chain;
        let Some(block) = &mut self.block else {
            if self.next >= self.snapshot.blocks.end {
                return Ok(None);
            }
            let key = block_key(chain, self.next);
            let before = predecessor(storage, chain, self.next)?.ok_or("it is missing")?;
            let previous = before.hash().map_or_else(Vec::new, |hash| hash.to_vec());
            self.block = Some(OpenBlock {
                ordinal: self.next,
                hasher: BlockHasher::new(&previous),
                entries: VecDeque::new(),
                from: Some([&key[..], &[0]].concat()),
                is_changed: false,
                own: match &self.snapshot.own {
                    Some((ordinal, id, own)) if *ordinal == self.next => Some((*id, own.stored().into())),
                    _ => None,
                },
                recorded: None,
            });
            self.next += 1;
            return Ok(Some(HistoryPart::Block(previous)));
        };
        if let Some(recorded) = &mut block.recorded {
            self.arena.reset();
            let item =
                recorded.items.next(&recorded.bytes, &self.arena).map_err(|error| error.to_string())?;
            let mutation =
                item.map(decode::stored_mutation).transpose().map_err(|error| error.to_string())?;
            return Ok(Some(match mutation {
                Some(mutation) => {
                    block.hasher.record(&mutation);
                    HistoryPart::Mutation(mutation)
                }
                None => {
                    block.recorded = None;
                    block.hasher.end();
                    HistoryPart::EndTransaction
                }
            }));
        }
        block.read_on(storage, chain, self.snapshot.last)?;
        if let Some((id, bytes)) = block.entries.pop_front() {
            return block.begin(id, bytes).map(Some);
        }
        if let Some((id, own)) = block.own.take() {
            block.is_changed = true;
            return block.begin(id, own).map(Some);
        }
        if !block.is_changed {
            block.verify(storage, chain)?;
        }
        self.block = None;
        Ok(Some(HistoryPart::EndBlock))
    }

    /// Add to a JSON text until that has `bytes_max` or more: the blocks, with commas between them. True if that was all.
    ///
    /// # Errors
    /// As [`Self::next`]; 400 if JSON has no form for something.
    pub fn write_json(&mut self, storage: &dyn Read, text: &mut Vec<u8>, bytes_max: usize) -> Result<bool> {
        while text.len() < bytes_max {
            let Some(part) = self.next(storage)? else { return Ok(true) };
            let begins = matches!(
                part,
                HistoryPart::Block(_) | HistoryPart::Transaction(_) | HistoryPart::Mutation(_)
            );
            if begins && self.has_before {
                text.push(b',');
            }
            match &part {
                HistoryPart::Block(previous) => {
                    text.push(b'[');
                    text.extend(previous_json(previous));
                    text.extend(b",{");
                }
                HistoryPart::Transaction(id) => text.extend(format!("\"{id}\":[").bytes()),
                HistoryPart::Mutation(mutation) => {
                    serde_json::to_writer(&mut *text, mutation).map_err(Error::bad_request)?;
                }
                HistoryPart::EndTransaction => text.push(b']'),
                HistoryPart::EndBlock => text.extend(b"}]"),
            }
            self.has_before = !matches!(part, HistoryPart::Block(_) | HistoryPart::Transaction(_));
        }
        Ok(false)
    }

    /// All blocks at once, if what they record takes no more than this in memory, in bytes.
    ///
    /// # Errors
    /// As [`Self::next`]; 413 if it takes more.
    pub fn blocks(mut self, storage: &dyn Read, bytes_max: u64) -> Result<Vec<Block>> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut bytes = 0;
        while let Some(part) = self.next(storage)? {
            match part {
                HistoryPart::Block(previous) => {
                    blocks.push(Block { previous, transactions: Vec::new() });
                }
                HistoryPart::Transaction(id) => {
                    blocks.last_mut().expect("a block").transactions.push((id, Vec::new()));
                }
                HistoryPart::Mutation(mutation) => {
                    bytes += mutation.bytes();
                    if bytes > bytes_max {
                        return Err(Error::too_large(format_args!(
                            "these blocks take more than {bytes_max} bytes: ask for some of them by ?key="
                        )));
                    }
                    let (_, mutations) = blocks
                        .last_mut()
                        .and_then(|block| block.transactions.last_mut())
                        .expect("a transaction");
                    mutations.push(mutation);
                }
                HistoryPart::EndTransaction | HistoryPart::EndBlock => {}
            }
        }
        Ok(blocks)
    }
}

impl OpenBlock {
    fn begin(&mut self, id: TxnId, bytes: Bytes) -> std::result::Result<HistoryPart, String> {
        self.hasher.begin(id);
        let items = tbon::Items::of(&bytes).map_err(|error| error.to_string())?;
        self.recorded = Some(Recorded { items, bytes });
        Ok(HistoryPart::Transaction(id))
    }

    /// Read the next transactions, unless there are some.
    fn read_on(
        &mut self,
        storage: &dyn Read,
        chain: ChainId,
        last: TxnId,
    ) -> std::result::Result<(), String> {
        if !self.entries.is_empty() {
            return Ok(());
        }
        let Some(from) = self.from.take() else { return Ok(()) };
        let prefix = block_key(chain, self.ordinal);
        let entries = storage.scan(Keyspace::Blocks, &prefix, Some(&from), SCAN_ENTRIES)?;
        let is_full = entries.len() == SCAN_ENTRIES;
        for (key, value) in entries {
            let id = key[prefix.len()..].try_into().map(TxnId::from_bytes);
            let id = id.map_err(|_| "a key is malformed".to_string())?;
            if id > last {
                self.is_changed = true;
                return Ok(());
            }
            if is_full {
                // The next key after this one.
                self.from = Some([&key[..], &[0]].concat());
            }
            self.entries.push_back((id, value));
        }
        Ok(())
    }

    /// Check that the next block, if there is one, follows what was read.
    fn verify(&self, storage: &dyn Read, chain: ChainId) -> std::result::Result<(), String> {
        match predecessor(storage, chain, self.ordinal + 1)? {
            Some(next) if next.hash() != Some(self.hasher.hash()) => {
                Err("the next block follows another one".to_string())
            }
            _ => Ok(()),
        }
    }
}
