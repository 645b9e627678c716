use super::genesis::{GenesisFile, MemberFile, ParametersFile};
use super::options::{GENESIS_OPTIONS, OPTIONS, OptionRow, describe};
use super::*;
use quorum_store::types::{Digest, Genesis};
use std::collections::BTreeMap;

fn author(key: u8) -> Author {
    Author([key; 32])
}

fn genesis(members: u8) -> Genesis {
    let validators = (1..=members).map(|key| MemberFile { key: author(key), power: 1 }).collect();
    let parameters = ParametersFile::default();
    GenesisFile { nonce: Digest([9; 32]), parameters, validators }.genesis().unwrap()
}

fn peer(key: u8) -> PeerConfig {
    let address = format!("127.0.0.1:{}", 4000 + u16::from(key)).parse().unwrap();
    PeerConfig { key: author(key), transport: address, ordering: address, sync: address }
}

fn minimal() -> String {
    "genesis = 'g'\nkey_file = 'k'\ndata_dir = 'd'\n[network]\n\
     transport_listen = '127.0.0.1:0'\nordering_listen = '127.0.0.1:0'\n\
     http_listen = '127.0.0.1:0'\n"
        .to_owned()
}

fn config() -> ValidatorConfig {
    let mut config: ValidatorConfig = toml::from_str(&minimal()).unwrap();
    config.peers = (2..=4).map(peer).collect();
    config.network.sync_listen = Some("127.0.0.1:0".parse().unwrap());
    config
}

fn check(config: &ValidatorConfig) -> Result<(), Failure> {
    let genesis = genesis(4);
    config.validate(&genesis.parameters, &genesis.committee, &author(1))
}

/// The leaves of a TOML document: path to text.
fn leaves(value: &toml::Value, path: &str, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &path, into);
            }
        }
        toml::Value::Array(values) if values.iter().all(toml::Value::is_table) => {
            for value in values {
                leaves(value, &format!("{path}[]"), into);
            }
        }
        toml::Value::String(text) => {
            into.insert(path.to_owned(), text.clone());
        }
        other => {
            into.insert(path.to_owned(), other.to_string());
        }
    }
}

fn assert_table_is_complete(rows: &[OptionRow], value: &toml::Value) {
    let mut found = BTreeMap::new();
    leaves(value, "", &mut found);
    let listed: BTreeMap<_, _> = rows.iter().map(|row| (row.name.to_owned(), row)).collect();
    assert_eq!(listed.len(), rows.len(), "an option is listed twice");
    let names = |map: Vec<&String>| map.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(found.keys().collect()), names(listed.keys().collect()));
    for (name, row) in listed {
        if !row.default.is_empty() {
            assert_eq!(row.default, found[&name], "default of {name}");
        }
    }
}

#[test]
fn every_option_is_listed_with_its_default() {
    assert_table_is_complete(OPTIONS, &toml::Value::try_from(config()).unwrap());
    let file = GenesisFile::describe(&genesis(2));
    assert_table_is_complete(GENESIS_OPTIONS, &toml::Value::try_from(file).unwrap());
    assert!(describe().contains("proposal.block_interval"));
}

#[test]
fn a_minimal_config_is_valid_and_a_written_one_reads_the_same() {
    let config = config();
    check(&config).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<ValidatorConfig>(&text).unwrap(), config);
}

const SECTIONS: [&str; 9] = [
    "",
    "[network]",
    "[proposal]",
    "[ordering]",
    "[execution]",
    "[http]",
    "[sequencer]",
    "[engine]",
    "[storage]",
];

#[test]
fn a_typo_is_an_error_in_every_section() {
    let good = toml::to_string(&config()).unwrap();
    for section in SECTIONS {
        let bad = if section.is_empty() {
            format!("typo = 1\n{good}")
        } else {
            good.replacen(section, &format!("{section}\ntypo = 1"), 1)
        };
        assert!(bad.contains("typo"), "{section}");
        assert!(toml::from_str::<ValidatorConfig>(&bad).is_err(), "{section}");
    }
    assert!(toml::from_str::<ValidatorConfig>(&good.replace("50ms", "50")).is_err());
}

#[test]
fn each_bound_and_relation_is_checked_and_names_its_option() {
    let wrong = |change: fn(&mut ValidatorConfig)| {
        let mut config = config();
        change(&mut config);
        let failure = check(&config).unwrap_err();
        assert_eq!(failure.code(), 2);
        failure.to_string()
    };
    assert!(wrong(|c| c.worker_threads = 0).starts_with("worker_threads"));
    assert!(wrong(|c| c.proposal.block_interval = Duration::ZERO).contains("block_interval"));
    assert!(
        wrong(|c| c.proposal.block_interval_min = Duration::from_millis(51))
            .contains("block_interval_min must not be above")
    );
    assert!(
        wrong(|c| c.proposal.empty_block_interval = Duration::from_millis(900))
            .contains("leader_timeout")
    );
    assert!(
        wrong(|c| c.proposal.empty_block_interval = Duration::from_millis(10))
            .contains("block_interval")
    );
    assert!(wrong(|c| c.ordering.skip_timeout = Duration::from_secs(1)).contains("skip_timeout"));
    assert!(wrong(|c| c.proposal.batch_bytes_max = Size(1)).contains("batch_bytes_max"));
    assert!(wrong(|c| c.proposal.transactions_max = 1).contains("transactions_max"));
    assert!(wrong(|c| c.http.body_bytes_max = Size(2048)).contains("body_bytes_max"));
    assert!(wrong(|c| c.http.ingress_bytes_max = Size(2048)).contains("ingress_bytes_max"));
    assert!(wrong(|c| c.sequencer.reservation = 1).contains("sequencer.reservation"));
    assert!(wrong(|c| c.peers.truncate(2)).contains("missing"));
    assert!(wrong(|c| c.peers.push(peer(2))).contains("twice"));
    assert!(wrong(|c| c.peers.push(peer(9))).contains("not in the genesis"));
}

#[test]
fn the_chain_id_survives_the_file_and_follows_every_parameter() {
    let original = genesis(4);
    let file = GenesisFile::describe(&original);
    let text = file.text().unwrap();
    let read: GenesisFile = toml::from_str(&text).unwrap();
    assert_eq!(read, file);
    assert_eq!(read.genesis().unwrap().chain_id(), original.chain_id());
    let mut other = file.clone();
    other.parameters.payload_bytes_max = Size(other.parameters.payload_bytes_max.0 + 1);
    let other: GenesisFile = toml::from_str(&other.text().unwrap()).unwrap();
    assert_ne!(other.genesis().unwrap().chain_id(), original.chain_id());
}

#[test]
fn a_genesis_that_cannot_run_is_refused_with_code_2() {
    let good = GenesisFile::describe(&genesis(4));
    let mut cases = vec![good.clone(); 4];
    cases[0].validators[1].power = 2;
    cases[1].validators.clear();
    cases[2].validators[1].key = cases[2].validators[0].key;
    cases[3].parameters.batch_bytes_max = Size(1 << 40);
    for case in cases {
        assert_eq!(case.genesis().unwrap_err().code(), 2);
    }
    assert!(toml::from_str::<GenesisFile>("nonce = 'zz'\nvalidators = []").is_err());
}
