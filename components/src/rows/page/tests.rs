use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A tree as a map of the number of each page, by its least key.
type Model = BTreeMap<Key, u64>;

fn key(number: u16) -> Key {
    // Some are longer than a key that lies where it is named.
    let len = if number.is_multiple_of(7) { 30 } else { 2 };
    Key::from([&number.to_be_bytes()[..], &[1; 30][..len]].concat())
}

fn page(number: u64) -> Page {
    Page { rows: number, ..Page::empty() }
}

fn assert_is(tree: &Tree, model: &Model, probes: &[u16]) {
    let pages: Vec<(Key, u64)> = tree.iter().map(|(low, page)| (low.clone(), page.rows)).collect();
    assert_eq!(pages, model.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(tree.pages(), model.len());
    let around = probes.iter().map(|number| key(*number));
    for key in around.chain(model.keys().flat_map(|low| [low.clone(), low.next()])) {
        let (low, number) = model.range::<Key, _>(..=key.clone()).next_back().expect("a first page");
        let next = model.range::<Key, _>((Bound::Excluded(low), Bound::Unbounded)).next();
        let (found, page) = tree.page(&key);
        assert_eq!((found, page.rows), (low, *number));
        let placed = tree.place(&key);
        assert_eq!((&placed.range.start, placed.page.rows), (low, *number));
        assert_eq!(placed.range.end.as_ref(), next.map(|(next, _)| next));
        assert_eq!(tree.at(&key).map(|page| page.rows), model.get(&key).copied());
        let before = model.range::<Key, _>((Bound::Unbounded, Bound::Excluded(low))).next_back();
        let beside = tree.beside(low).map(|beside| beside.map(|(low, page)| (low, page.rows)));
        assert_eq!(beside, [before, next].map(|beside| beside.map(|(low, number)| (low, *number))));
    }
    for bounds in probes.windows(2) {
        let (start, end) = (key(bounds[0].min(bounds[1])), key(bounds[0].max(bounds[1])));
        let first = model
            .range::<Key, _>((Bound::Unbounded, Bound::Included(&start)))
            .next_back()
            .expect("a first page")
            .0;
        let expected: Vec<u64> = model
            .range::<Key, _>((Bound::Included(first), Bound::Unbounded))
            .take_while(|(low, _)| *low == first || **low < end)
            .map(|(_, n)| *n)
            .collect();
        let range = KeyRange { start, end: Some(end) };
        let found: Vec<u64> = tree.pages_in(&range).map(|(_, page)| page.rows).collect();
        let mut backward: Vec<u64> = tree.pages_in(&range).rev().map(|(_, page)| page.rows).collect();
        backward.reverse();
        assert_eq!((&found, &backward), (&expected, &expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn pages_are_found_however_they_part_and_join(
        lows in prop::collection::btree_set(1..2_000u16, 0..200),
        steps in prop::collection::vec((0..2_000u16, 0..400u16, prop::collection::btree_set(0..400u16, 0..12)), 1..24),
        changed in prop::collection::vec(0..2_000u16, 8),
    ) {
        let mut numbers = 0..;
        let mut number = move || numbers.next().expect("a number");
        let mut model = Model::from([(Key::EMPTY, number())]);
        model.extend(lows.iter().map(|low| (key(*low), number())));
        let mut tree = Tree::of(model.iter().map(|(low, number)| (low.clone(), page(*number))).collect());
        let first = (tree.clone(), model.clone());
        for (start, len, lows) in steps {
            // The pages in a range are replaced by others, more or fewer.
            let start = model.range::<Key, _>(..=key(start)).next_back().expect("a first page").0.clone();
            let first_number = lows.first().copied().unwrap_or(0);
            let beyond = key(len.max(1) + start.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes)));
            let end = model.range::<Key, _>((Bound::Excluded(&start), Bound::Unbounded)).map(|(low, _)| low);
            let end = end.filter(|low| **low >= beyond).min().cloned();
            let range = KeyRange { start: start.clone(), end };
            let from = start.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes)) + 1;
            let new: Vec<(Key, Page)> = lows
                .iter()
                .map(|low| (if *low == first_number { start.clone() } else { key(from + low) }, page(number())))
                .filter(|(low, _)| range.contains(low))
                .collect();
            model.retain(|low, _| !range.contains(low));
            model.extend(new.iter().map(|(low, page)| (low.clone(), page.rows)));
            model.entry(start).or_insert(0);
            tree.replace_range(&range, new);
            assert_is(&tree, &model, &changed);
        }
        for changed in &changed {
            let (low, page) = tree.page_mut(&key(*changed));
            page.rows = number();
            let before = model.insert(low, page.rows);
            prop_assert!(before.is_some());
        }
        assert_is(&tree, &model, &changed);
        // A snapshot stays as it was.
        assert_is(&first.0, &first.1, &changed);
    }
}
