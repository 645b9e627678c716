use super::ingress::{split, terms};
use super::state::{readable, storage_syncs};
use axum::http::HeaderMap;
use bytes::Bytes;
use quorum_store::types::{ChainParameters, Timestamp};
use serde_json::json;

const SECOND: u64 = 1_000_000;

fn framed(entries: &[&[u8]]) -> Bytes {
    let mut body = Vec::new();
    for entry in entries {
        body.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        body.extend_from_slice(entry);
    }
    body.into()
}

#[test]
fn a_body_splits_into_slices_of_itself() {
    let body = framed(&[b"one", b"", b"three"]);
    let entries = split(&body).unwrap();
    assert_eq!(entries, [&b"one"[..], b"", b"three"]);
    assert_eq!(entries[0].as_ptr(), body[4..].as_ptr());
    assert_eq!(split(&Bytes::new()).unwrap(), Vec::<Bytes>::new());
}

#[test]
fn every_way_a_frame_can_be_cut_is_refused() {
    let body = framed(&[b"one", b"two"]);
    for end in (0..body.len()).filter(|end| *end != 0 && *end != 7) {
        assert!(split(&body.slice(..end)).is_err(), "cut at {end}");
    }
    let bomb = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1]);
    assert!(split(&bomb).is_err());
    let many = Bytes::from(vec![0; 4 * 65_537]);
    assert!(split(&many).is_err());
    assert_eq!(split(&many.slice(..4 * 65_536)).unwrap().len(), 65_536);
}

#[test]
fn terms_have_defaults_and_bounds() {
    let chain = ChainParameters::default();
    let now = Timestamp(1_000 * SECOND);
    let with = |pairs: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        terms(&headers, now, &chain)
    };
    let default = with(&[]).unwrap();
    assert_eq!(default.gas_unit_price, 1);
    assert_eq!(default.expiration, Timestamp(1_029 * SECOND + SECOND / 2));
    let stated = with(&[("gas-unit-price", "7"), ("expiration-unix-secs", "1030")]).unwrap();
    assert_eq!((stated.gas_unit_price, stated.expiration), (7, Timestamp(1_030 * SECOND)));
    for value in
        ["", "x", "-1", "1.5", "18446744073709551616", "999", "1031", "18446744073709551615"]
    {
        assert!(with(&[("expiration-unix-secs", value)]).is_err(), "{value:?}");
    }
    assert!(with(&[("gas-unit-price", "much")]).is_err());
}

#[test]
fn the_syncs_of_the_journal_are_found_among_other_metrics() {
    let text = "# HELP runtime_storage_syncs help\n# TYPE runtime_storage_syncs counter\n\
                runtime_storage_reads_total 5\nruntime_storage_syncs_total 42\n# EOF\n";
    assert_eq!(storage_syncs(text), Some(42));
    assert_eq!(storage_syncs("# EOF\n"), None);
}

#[test]
fn names_are_hex_and_other_lists_stay_lists() {
    let value = json!({ "peer": vec![1; 32], "list": [1, 2], "wide": vec![300; 32] });
    let shown = readable(value);
    assert_eq!(shown["peer"], "01".repeat(32));
    assert_eq!(shown["list"], json!([1, 2]));
    assert!(shown["wide"].is_array());
}
