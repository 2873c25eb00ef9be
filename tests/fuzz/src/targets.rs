//! The parsers of what strangers send, by name. Each takes any bytes, must not panic, and checks what must hold of its result.

use std::sync::{Arc, LazyLock};

use valetkey_core::{SystemEntropy, Timestamp};
use valetkey_providers::{Catalogue, Guard};
use valetkey_sealing::{KeyRing, RecordIdentity, Sealer, new_data_key};

/// One parser.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "callback_query", run: callback_query },
    Target { name: "token_answer", run: token_answer },
    Target { name: "discovery_document", run: discovery_document },
    Target { name: "return_target", run: return_target },
    Target { name: "provider_url", run: provider_url },
    Target { name: "sealed_record", run: sealed_record },
    Target { name: "key_ring_file", run: key_ring_file },
    Target { name: "waits", run: waits },
    Target { name: "configuration", run: configuration },
    Target { name: "import_line", run: import_line },
    Target { name: "api_key", run: api_key },
];

fn text(data: &[u8], run: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        run(text);
    }
}

fn guard() -> Guard {
    Guard::new(Vec::new(), Vec::new())
}

fn callback_query(data: &[u8]) {
    text(data, |raw| {
        valetkey_api::fuzzing::callback_query(raw);
    });
}

fn import_line(data: &[u8]) {
    valetkey_api::fuzzing::import_line(data);
}

fn token_answer(data: &[u8]) {
    static CATALOGUE: LazyLock<Catalogue> =
        LazyLock::new(|| Catalogue::embedded().unwrap_or_else(|error| panic!("the embedded profiles: {error}")));
    valetkey_providers::fuzzing::token_answer(&CATALOGUE, data);
}

fn discovery_document(data: &[u8]) {
    valetkey_providers::fuzzing::discovery_document(&guard(), data);
}

fn provider_url(data: &[u8]) {
    text(data, |url| valetkey_providers::fuzzing::provider_url(&guard(), url));
}

fn waits(data: &[u8]) {
    valetkey_providers::fuzzing::waits(data);
}

fn return_target(data: &[u8]) {
    text(data, valetkey_broker::fuzzing::return_target);
}

fn key_ring_file(data: &[u8]) {
    text(data, |content| {
        valetkey_sealing::fuzzing::key_ring_file(content);
    });
}

fn configuration(data: &[u8]) {
    text(data, |content| {
        valetkey_server::fuzzing::configuration(content);
    });
}

fn api_key(data: &[u8]) {
    text(data, |key| {
        if valetkey_core::PresentedKey::parse(key).is_some() {
            assert!(key.is_ascii() && key.starts_with("vk_"), "not the form of a key: {key}");
        }
    });
}

const IDENTITY: RecordIdentity<'static> = RecordIdentity {
    space: "default",
    table: "connections",
    column: "access_token",
    row: "cxn_00000000000000000000000000",
    owner: Some("u:u-1"),
    label: None,
    connector: Some("ctr_00000000000000000000000000"),
    generation: Some(1),
};

/// Changes a good record as the input says, or takes the input for one: only the record itself opens.
fn sealed_record(data: &[u8]) {
    static SEALED: LazyLock<(Sealer, Vec<u8>)> = LazyLock::new(|| {
        let entropy = Arc::new(SystemEntropy);
        let ring = KeyRing::from_key([7; 32].into());
        let now = Timestamp::from_millis(1_800_000_000_000);
        let sealer = futures::executor::block_on(async {
            let wrapper = ring.wrappers().remove(0);
            let row = new_data_key("ins_fuzz", 1, wrapper.as_ref(), entropy.as_ref(), now).await.ok()?;
            Sealer::unlock("ins_fuzz", &[row], &ring.wrappers(), entropy.clone()).await.ok()
        });
        let sealer = sealer.unwrap_or_else(|| panic!("a sealer of one fresh key"));
        let record = sealer.seal(&IDENTITY, b"the secret").unwrap_or_else(|error| panic!("sealing: {error}"));
        (sealer, record)
    });
    let (sealer, good) = &*SEALED;
    assert!(data == good.as_slice() || sealer.open(&IDENTITY, data).is_err(), "somebody else's bytes opened");
    let mut changed = good.clone();
    for pair in data.chunks_exact(2) {
        let place = usize::from(pair[0]) % changed.len();
        changed[place] ^= pair[1];
    }
    changed.truncate(changed.len() - data.len() % 2);
    assert_eq!(sealer.open(&IDENTITY, &changed).is_ok(), changed == *good, "a changed record opened");
}
