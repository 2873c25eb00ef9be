use std::sync::Arc;

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use valetkey_core::{KeyWrapper, WrapContext, WrapError, sha256};

use super::{IDENTITY, INSTANCE, data_key, entropy, unlock, wrappers};
use crate::{DataKeyRow, DataKeyState, OpenError, Sealer, UnlockError};

async fn unlock_error(instance: &str, rows: &[DataKeyRow], wrappers: &[Arc<dyn KeyWrapper>]) -> UnlockError {
    Sealer::unlock(instance, rows, wrappers, entropy()).await.unwrap_err()
}

#[tokio::test]
async fn a_restart_opens_what_was_sealed_before() {
    let rows = [data_key(1, &wrappers(1)).await];
    let record = unlock(INSTANCE, &rows).await.seal(&IDENTITY, b"refresh-1").unwrap();
    assert_eq!(unlock(INSTANCE, &rows).await.open(&IDENTITY, &record).unwrap().as_slice(), b"refresh-1");
}

#[tokio::test]
async fn an_older_key_still_opens_and_the_active_one_seals() {
    let mut rows = vec![data_key(1, &wrappers(1)).await];
    let sealer = unlock(INSTANCE, &rows).await;
    let clone = sealer.clone();
    let old = sealer.seal(&IDENTITY, b"old").unwrap();

    rows[0].state = DataKeyState::DecryptOnly;
    rows.push(data_key(2, &wrappers(1)).await);
    sealer.reload(&rows, &wrappers(1)).await.unwrap();

    assert_eq!(clone.active_key(), 2);
    let new = clone.seal(&IDENTITY, b"new").unwrap();
    assert_eq!(new[2..6], [0, 0, 0, 2]);
    assert_eq!(clone.open(&IDENTITY, &old).unwrap().as_slice(), b"old");
    assert_eq!(sealer.open(&IDENTITY, &new).unwrap().as_slice(), b"new");
}

#[tokio::test]
async fn a_failed_reload_changes_nothing() {
    let mut rows = vec![data_key(1, &wrappers(1)).await];
    let sealer = unlock(INSTANCE, &rows).await;
    rows[0].state = DataKeyState::DecryptOnly;
    rows.push(data_key(2, &wrappers(2)).await);
    let error = sealer.reload(&rows, &wrappers(1)).await.unwrap_err();
    assert!(matches!(error, UnlockError::UnknownWrapper { key_id: 2, .. }), "{error}");
    let record = sealer.seal(&IDENTITY, b"x").unwrap();
    assert_eq!(sealer.active_key(), 1);
    assert!(sealer.open(&IDENTITY, &record).is_ok());
}

#[tokio::test]
async fn a_reload_asks_no_wrapper_for_the_keys_it_has() {
    let rows = [data_key(1, &wrappers(1)).await];
    let sealer = unlock(INSTANCE, &rows).await;
    assert!(sealer.reload(&rows, &[]).await.is_ok());
}

#[tokio::test]
async fn unlocking_and_the_sealer_can_go_to_another_thread() {
    fn shared<T: Send + Sync>(_: &T) {}
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let rows = [data_key(1, &wrappers(1)).await];
    let wrappers = wrappers(1);
    let sealer = sent(Sealer::unlock(INSTANCE, &rows, &wrappers, entropy())).await.unwrap();
    sent(sealer.reload(&rows, &wrappers)).await.unwrap();
    shared(&sealer);
}

#[tokio::test]
async fn reading_goes_on_while_keys_are_added() {
    let row = data_key(1, &wrappers(1)).await;
    let sealer = unlock(INSTANCE, std::slice::from_ref(&row)).await;
    let record = sealer.seal(&IDENTITY, b"x").unwrap();
    let reader = {
        let sealer = sealer.clone();
        std::thread::spawn(move || (0..300).all(|_| sealer.open(&IDENTITY, &record).is_ok()))
    };
    let mut rows = vec![DataKeyRow { state: DataKeyState::DecryptOnly, ..row }];
    for id in 2..12 {
        let mut table = rows.clone();
        table.push(data_key(id, &wrappers(1)).await);
        sealer.reload(&table, &wrappers(1)).await.unwrap();
        table[rows.len()].state = DataKeyState::DecryptOnly;
        rows = table;
    }
    assert!(reader.join().unwrap());
    assert_eq!(sealer.active_key(), 11);
}

#[tokio::test]
async fn an_unknown_wrapper_is_named_with_what_there_is() {
    let row = data_key(3, &wrappers(2)).await;
    let error = unlock_error(INSTANCE, std::slice::from_ref(&row), &wrappers(1)).await;
    let text = error.to_string();
    assert!(matches!(error, UnlockError::UnknownWrapper { key_id: 3, .. }), "{text}");
    assert!(text.contains(&row.wrapper), "{text}");
    assert!(text.contains(wrappers(1)[0].id()), "{text}");
    let text = unlock_error(INSTANCE, &[row], &[]).await.to_string();
    assert!(text.contains("there is: none"), "{text}");
}

#[tokio::test]
async fn the_key_table_of_another_instance_is_refused_by_name() {
    let row = data_key(3, &wrappers(1)).await;
    let error = unlock_error("77aa", &[row], &wrappers(1)).await;
    assert_eq!(
        error.to_string(),
        "data key 3 was made for instance `4f0c`, and this is instance `77aa`; \
         use the key ring and the database of one instance together"
    );
}

#[tokio::test]
async fn a_relabelled_foreign_data_key_does_not_open_either() {
    let mut row = data_key(3, &wrappers(1)).await;
    row.canary.splice(..INSTANCE.len(), *b"77aa");
    let error = unlock_error("77aa", &[row], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::Damaged { key_id: 3, .. }), "{error}");
}

#[tokio::test]
async fn every_flipped_byte_of_a_data_key_row_is_refused() {
    let row = data_key(3, &wrappers(1)).await;
    for place in 0..row.wrapped.len() {
        let mut row = row.clone();
        row.wrapped[place] ^= 0x10;
        let error = unlock_error(INSTANCE, &[row], &wrappers(1)).await;
        assert!(matches!(error, UnlockError::Damaged { key_id: 3, .. }), "{place}: {error}");
    }
    for place in 0..row.canary.len() {
        let mut row = row.clone();
        row.canary[place] ^= 0x10;
        let error = unlock_error(INSTANCE, &[row], &wrappers(1)).await;
        let expected = match error {
            UnlockError::ForeignInstance { .. } => place < INSTANCE.len(),
            UnlockError::Canary { .. } => place >= INSTANCE.len(),
            _ => false,
        };
        assert!(expected, "{place}: {error}");
    }
}

#[tokio::test]
async fn truncated_rows_are_refused() {
    let row = data_key(3, &wrappers(1)).await;
    let short = DataKeyRow { wrapped: row.wrapped[..40].to_vec(), ..row.clone() };
    let error = unlock_error(INSTANCE, &[short], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::Damaged { .. }), "{error}");
    let short = DataKeyRow { canary: Vec::new(), ..row };
    let error = unlock_error(INSTANCE, &[short], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::Canary { source: OpenError::Length { length: 0 }, .. }), "{error}");
}

#[tokio::test]
async fn a_data_key_under_another_id_is_refused() {
    let row = DataKeyRow { id: 4, ..data_key(3, &wrappers(1)).await };
    let error = unlock_error(INSTANCE, &[row], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::Damaged { key_id: 4, .. }), "{error}");
}

#[tokio::test]
async fn exactly_one_key_is_active_and_no_id_is_there_twice() {
    let one = data_key(1, &wrappers(1)).await;
    let two = data_key(2, &wrappers(1)).await;
    let retired = DataKeyRow { state: DataKeyState::DecryptOnly, ..one.clone() };
    let error = unlock_error(INSTANCE, &[], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::NoActiveKey), "{error}");
    let error = unlock_error(INSTANCE, std::slice::from_ref(&retired), &wrappers(1)).await;
    assert!(matches!(error, UnlockError::NoActiveKey), "{error}");
    let error = unlock_error(INSTANCE, &[one.clone(), two], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::SeveralActiveKeys { first: 1, second: 2 }), "{error}");
    let error = unlock_error(INSTANCE, &[one, retired], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::DuplicateKey { key_id: 1 }), "{error}");
}

#[tokio::test]
async fn the_same_key_wraps_to_the_same_bytes_and_another_to_others() {
    let local = &wrappers(1)[0];
    let context = WrapContext { instance: INSTANCE.to_owned(), key_id: 1 };
    let wrapped = local.wrap(&context, &[5; 32]).await.unwrap();
    assert_eq!(wrapped, local.wrap(&context, &[5; 32]).await.unwrap());
    let salt = |record: &[u8]| record[6..38].to_vec();
    let other = WrapContext { key_id: 2, ..context.clone() };
    for (what, context, key) in [("key", &context, [6; 32]), ("key id", &other, [5; 32])] {
        let wrapped_too = local.wrap(context, &key).await.unwrap();
        assert_ne!(salt(&wrapped), salt(&wrapped_too), "{what}");
    }
    assert_eq!(local.unwrap(&context, &wrapped).await.unwrap(), [5; 32]);
    assert!(matches!(local.unwrap(&other, &wrapped).await, Err(WrapError::Refused)));
}

/// A key service.
#[derive(Debug)]
struct Service {
    answers: Option<[u8; 32]>,
}

#[async_trait]
impl KeyWrapper for Service {
    fn id(&self) -> &'static str {
        "service"
    }

    async fn wrap(&self, _: &WrapContext, _: &[u8; 32]) -> Result<Vec<u8>, WrapError> {
        Ok(Vec::new())
    }

    async fn unwrap(&self, _: &WrapContext, _: &[u8]) -> Result<[u8; 32], WrapError> {
        self.answers.ok_or_else(|| WrapError::Unavailable("connection refused".to_owned()))
    }
}

#[tokio::test]
async fn a_service_that_is_away_is_told_from_one_that_gives_the_wrong_key() {
    let service = |answers| -> [Arc<dyn KeyWrapper>; 1] { [Arc::new(Service { answers })] };
    let row = data_key(3, &service(None)).await;
    let error = unlock_error(INSTANCE, std::slice::from_ref(&row), &service(None)).await;
    assert!(matches!(error, UnlockError::Unavailable { key_id: 3, .. }), "{error}");
    let error = unlock_error(INSTANCE, &[row], &service(Some([8; 32]))).await;
    assert!(matches!(error, UnlockError::Canary { key_id: 3, source: OpenError::WrongKey { .. } }), "{error}");
}

#[test]
fn states_survive_text_and_back() {
    for state in [DataKeyState::Active, DataKeyState::DecryptOnly, DataKeyState::Pending, DataKeyState::Retired] {
        assert_eq!(state.as_str().parse(), Ok(state));
    }
    assert!("revoked".parse::<DataKeyState>().is_err());
}

/// Holds the format, so that a stored data key unwraps in every later version.
#[tokio::test]
async fn a_wrapped_key_looks_as_it_did() {
    let local = &wrappers(1)[0];
    assert_eq!(local.id(), "local-371b37cb704d9a05");
    let context = WrapContext { instance: INSTANCE.to_owned(), key_id: 1 };
    let wrapped = local.wrap(&context, &[5; 32]).await.unwrap();
    assert_eq!(wrapped.len(), 118);
    assert_eq!(HEXLOWER.encode(&sha256(&wrapped)), "02837ad68b7db2abd911b92105bb09b1f9e1b956a793eaa4a90a1fb6073e49cb");
}

#[tokio::test]
async fn a_key_that_nothing_is_sealed_with_may_be_missing_and_says_why() {
    let active = data_key(1, &wrappers(1)).await;
    for state in [DataKeyState::Pending, DataKeyState::Retired] {
        let other = DataKeyRow { state, ..data_key(2, &wrappers(9)).await };
        let sealer = Sealer::unlock(INSTANCE, &[active.clone(), other.clone()], &wrappers(1), entropy()).await.unwrap();
        assert!(!sealer.has_key(2) && sealer.is_behind(std::slice::from_ref(&other)));
        assert!(sealer.missing_keys()[&2].contains("key-encryption key"), "{:?}", sealer.missing_keys());
        // The key comes: it is taken up without a restart.
        let both: Vec<_> = wrappers(1).into_iter().chain(wrappers(9)).collect();
        sealer.reload(&[active.clone(), other], &both).await.unwrap();
        assert!(sealer.has_key(2) && sealer.missing_keys().is_empty());
    }
    let needed = DataKeyRow { state: DataKeyState::DecryptOnly, ..data_key(2, &wrappers(9)).await };
    let error = unlock_error(INSTANCE, &[active, needed], &wrappers(1)).await;
    assert!(matches!(error, UnlockError::UnknownWrapper { key_id: 2, .. }), "{error}");
}

#[tokio::test]
async fn a_data_key_goes_from_one_key_encryption_key_to_another() {
    let row = data_key(7, &wrappers(1)).await;
    let sealer = unlock(INSTANCE, std::slice::from_ref(&row)).await;
    let record = sealer.seal(&IDENTITY, b"token").unwrap();
    let other = &wrappers(2)[0];
    let moved = DataKeyRow {
        wrapper: other.id().to_owned(),
        wrapped: sealer.wrap_again(7, other.as_ref()).await.unwrap(),
        ..row.clone()
    };
    let reader = Sealer::unlock(INSTANCE, &[moved], &wrappers(2), entropy()).await.unwrap();
    assert_eq!(reader.open(&IDENTITY, &record).unwrap().as_slice(), b"token");
    assert!(sealer.wrap_again(8, other.as_ref()).await.is_err(), "there is no key 8");
}
