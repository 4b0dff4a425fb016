//! What operators see: in parts of a bounded size, all of it, and no values.

use serde_json::{Value, json};
use world::{InspectQuery, Inspection};

use crate::machine::{Machine, MachineOptions, TICK_NS, on_program_stack, post, put};
use crate::services;
use crate::streams::{SMALL_ROWS, in_small_pages, stock};

const PAGE_CACHE_BYTES: u64 = 10_000_000;

/// What is shown, and in how many parts.
fn inspect(machine: &Machine, query: &InspectQuery) -> (Value, usize) {
    let mut inspection = Inspection::new(query.clone());
    for parts in 1.. {
        if let Some(shown) = machine.host.advance(&mut inspection) {
            return (shown, parts);
        }
    }
    unreachable!("there is always one part more")
}

fn query(kind: &str) -> InspectQuery {
    InspectQuery { kind: Some(kind.into()), limit: 1_000, ..Default::default() }
}

#[test]
fn many_entities_are_shown_in_parts_and_none_is_missing() {
    on_program_stack(|| {
        let machine = in_small_pages(PAGE_CACHE_BYTES);
        let mut pages = Vec::new();
        loop {
            let (shown, parts) = inspect(&machine, &InspectQuery { offset: pages.len(), ..query("page") });
            let shown = &shown["entities"]["page"];
            let items = shown["items"].as_array().expect("pages");
            pages.extend(items.iter().map(|page| page["page"].as_u64().expect("a number")));
            if items.is_empty() {
                assert_eq!(shown["total"], json!(pages.len()));
                break;
            }
            assert!(parts > 1 || items.len() < 500, "{} entities in one part", items.len());
        }
        assert!(pages.len() > 500 && pages.is_sorted_by(|this, next| this < next), "each once");
        // All of them are looked at for a text that none has, and for one that some have.
        let filter = |filter: &str| InspectQuery { filter: Some(filter.into()), ..query("page") };
        let (none, parts) = inspect(&machine, &filter("nowhere"));
        assert_eq!(
            (&none["entities"]["page"]["total"], none["entities"]["page"]["items"].clone()),
            (&json!(0), json!([]))
        );
        assert!(parts > pages.len() / 300, "{parts} parts");
        let (index, _) = inspect(&machine, &filter("\"tree\":1"));
        let (primary, _) = inspect(&machine, &filter("\"tree\":0"));
        let total = |shown: &Value| shown["entities"]["page"]["total"].as_u64().expect("a number");
        assert_eq!(total(&index) + total(&primary), pages.len() as u64);
        // The pages of a collection are counted, whatever part they are in.
        let (shown, _) = inspect(&machine, &query("collection"));
        let items = &shown["entities"]["collection"];
        assert_eq!(items["total"], json!(2));
        let trees = items["items"][0]["trees"].as_array().expect("trees");
        assert_eq!(
            trees.iter().map(|tree| tree["rows"].as_u64().unwrap()).collect::<Vec<_>>(),
            [SMALL_ROWS; 2]
        );
        let counted: u64 = trees.iter().map(|tree| tree["pages"].as_u64().unwrap()).sum();
        assert_eq!(counted, pages.len() as u64);
        assert!(trees.iter().all(|tree| tree["bytes"].as_u64().unwrap() > 100_000), "{trees:?}");
    });
}

#[test]
fn the_world_may_change_between_two_parts() {
    on_program_stack(|| {
        let mut machine = in_small_pages(PAGE_CACHE_BYTES);
        for limit in [0, 1_000] {
            let mut inspection =
                Inspection::new(InspectQuery { filter: Some("e".into()), limit, ..Default::default() });
            let mut qty = 1;
            while machine.host.advance(&mut inspection).is_none() {
                qty += 1;
                stock(&mut machine, qty);
                assert!(qty < 100, "it does not come to an end");
            }
            assert!(qty > 1, "it was done in one part");
        }
    });
}

#[test]
fn values_and_keys_are_shown_to_those_alone_who_may_see_them() {
    on_program_stack(|| {
        let mut options = MachineOptions::new(1, &services::all());
        options.limits.request_ttl_ns = 1_000 * TICK_NS;
        let mut machine = Machine::new(options);
        assert_eq!(machine.call(put("/app/kit/text", json!("a secret"))).0, 200);
        let shown = |machine: &Machine, has_values| {
            inspect(machine, &InspectQuery { limit: 1_000, has_values, ..Default::default() }).0.to_string()
        };
        assert!(!shown(&machine, false).contains("a secret"));
        assert!(shown(&machine, true).contains("a secret"));
        // A filter tells nothing that is not shown.
        let filter = InspectQuery { filter: Some("a secret".into()), limit: 10, ..Default::default() };
        assert_eq!(inspect(&machine, &filter).0["entities"]["chain"]["total"], json!(0));
        let (_, event) = machine.ask(post("/app/hot/bump0", json!({ "spin": 1_000_000_000 })));
        machine.tick(vec![event]).expect("no fault");
        let (locks, _) = inspect(&machine, &query("lock"));
        let range = &locks["entities"]["lock"]["items"][0]["range"];
        assert_eq!(range["from"], json!({ "bytes": 0 }), "{locks}");
        let (transactions, _) = inspect(&machine, &query("transaction"));
        assert_eq!(transactions["entities"]["transaction"]["total"], json!(1));
    });
}
