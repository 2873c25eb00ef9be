//! What the crate promises, through its public items.

mod data_keys;
mod key_ring_file;
mod records;
mod vectors;

use std::sync::Arc;

use valetkey_core::{Entropy, KeyWrapper, SystemEntropy, Timestamp};
use zeroize::Zeroizing;

use crate::{DataKeyRow, KeyRing, RecordIdentity, Sealer, new_data_key};

const INSTANCE: &str = "4f0c";

const IDENTITY: RecordIdentity<'static> = RecordIdentity {
    space: "default",
    table: "connections",
    column: "tokens",
    row: "cxn_1",
    owner: Some("user:u-17"),
    label: Some("work"),
    connector: Some("ctr_1"),
    generation: Some(4),
};

fn entropy() -> Arc<dyn Entropy> {
    Arc::new(SystemEntropy)
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

/// Key-encryption keys that are all `byte`.
fn wrappers(byte: u8) -> Vec<Arc<dyn KeyWrapper>> {
    KeyRing::from_key(Zeroizing::new([byte; 32])).wrappers()
}

async fn data_key(id: u32, wrappers: &[Arc<dyn KeyWrapper>]) -> DataKeyRow {
    new_data_key(INSTANCE, id, wrappers[0].as_ref(), &SystemEntropy, now()).await.unwrap()
}

async fn unlock(instance: &str, rows: &[DataKeyRow]) -> Sealer {
    Sealer::unlock(instance, rows, &wrappers(1), entropy()).await.unwrap()
}

async fn sealer() -> Sealer {
    unlock(INSTANCE, &[data_key(7, &wrappers(1)).await]).await
}
