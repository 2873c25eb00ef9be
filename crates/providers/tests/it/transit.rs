//! Data keys wrapped at a transit service, against a server that says what Vault and OpenBao say.

use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Value, json};
use valetkey_core::{KeyWrapper, Secret, WrapContext, WrapError};
use valetkey_providers::{OutboundSettings, TransitError, TransitKeyWrapper, TransitSettings};

use super::support::{Act, Server};

const KEY: [u8; 32] = [7; 32];

fn settings(address: &str) -> TransitSettings {
    TransitSettings {
        address: address.parse().unwrap(),
        mount: "transit".to_owned(),
        key: "valetkey".to_owned(),
        namespace: Some("team-a".to_owned()),
        token: Arc::new(|| Ok(Secret::from("hvs.token"))),
        outbound: OutboundSettings {
            allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
            allow_http_hosts: vec!["127.0.0.1".to_owned()],
            ca_files: Vec::new(),
        },
    }
}

fn wrapper(server: &Server) -> TransitKeyWrapper {
    TransitKeyWrapper::new(settings(&server.url("/"))).unwrap()
}

fn context() -> WrapContext {
    WrapContext { instance: "4f0c".to_owned(), key_id: 3 }
}

fn data(data: &Value) -> Act {
    let body = json!({ "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data,
        "wrap_info": null, "warnings": null, "auth": null });
    Act::json(200, &body.to_string())
}

#[tokio::test]
async fn a_key_goes_to_the_service_bound_to_instance_and_id_and_comes_back() {
    let server = Server::start(vec![
        data(&json!({ "ciphertext": "vault:v1:abcd", "key_version": 1 })),
        data(&json!({ "plaintext": BASE64.encode(&KEY) })),
    ])
    .await;
    let wrapper = wrapper(&server);
    assert_eq!(wrapper.id(), "transit:team-a:transit/valetkey");
    let stored = wrapper.wrap(&context(), &KEY).await.unwrap();
    assert_eq!(stored, b"vault:v1:abcd");
    assert_eq!(wrapper.unwrap(&context(), &stored).await.unwrap(), KEY);

    let seen = server.seen();
    let bound_to = BASE64.encode(b"valetkey data key\n4f0c\n3");
    for (request, path) in seen.iter().zip(["/v1/transit/encrypt/valetkey", "/v1/transit/decrypt/valetkey"]) {
        assert!(request.head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{}", request.head);
        assert_eq!(request.header("x-vault-token"), Some("hvs.token"));
        assert_eq!(request.header("x-vault-namespace"), Some("team-a"));
        let body: Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!((&body["associated_data"], &body["context"]), (&json!(bound_to), &json!(bound_to)));
    }
    let sent: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!(sent["plaintext"], BASE64.encode(&KEY));
    let sent: Value = serde_json::from_str(&seen[1].body).unwrap();
    assert_eq!(sent["ciphertext"], "vault:v1:abcd");
}

#[tokio::test]
async fn what_the_service_refuses_is_told_from_its_absence_and_its_words_are_not_repeated() {
    let errors = |text: &str| json!({ "errors": [text] }).to_string();
    for (status, body, reason) in [
        (403, errors("permission denied hunter2"), Some("refuses the token")),
        (404, errors(""), Some("no transit engine at `transit`")),
        (400, errors("encryption key not found"), Some("has no key `valetkey`")),
        (503, errors("Vault is sealed"), Some("sealed or under maintenance")),
        (500, "<html>".to_owned(), Some("status 500")),
        (307, String::new(), Some("status 307")),
        (200, "{}".to_owned(), Some("does not answer as a transit service")),
        (200, json!({ "data": {} }).to_string(), Some("without a plaintext")),
        (400, errors("invalid ciphertext: unable to decrypt"), None),
        (200, json!({ "data": { "plaintext": "AAAA" } }).to_string(), None),
        (200, json!({ "data": { "plaintext": "not base64, but of the length of a key's 44" } }).to_string(), None),
    ] {
        let server = Server::start(vec![Act::json(status, &body)]).await;
        let error = wrapper(&server).unwrap(&context(), b"vault:v1:abcd").await.unwrap_err();
        match reason {
            Some(reason) => {
                assert!(matches!(&error, WrapError::Unavailable(said) if said.contains(reason)), "{status}: {error}");
            }
            None => assert!(matches!(error, WrapError::Refused), "{status} {body}: {error}"),
        }
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_service_that_is_away_says_so_and_a_private_one_needs_its_exception() {
    let server = Server::start(vec![Act::Reset]).await;
    let error = wrapper(&server).wrap(&context(), &KEY).await.unwrap_err();
    assert!(matches!(&error, WrapError::Unavailable(said) if said.contains("cannot be reached")), "{error}");

    let private = TransitSettings { outbound: OutboundSettings::default(), ..settings("https://127.0.0.1:9") };
    let error = TransitKeyWrapper::new(private).unwrap().wrap(&context(), &KEY).await.unwrap_err();
    assert!(error.to_string().contains("address_refused"), "{error}");

    let no_token =
        TransitSettings { token: Arc::new(|| Err("its file is gone".to_owned())), ..settings("https://vault") };
    let error = TransitKeyWrapper::new(no_token).unwrap().wrap(&context(), &KEY).await.unwrap_err();
    assert!(error.to_string().contains("its file is gone"), "{error}");
}

#[test]
fn names_cannot_lead_elsewhere() {
    for (mount, key) in
        [("transit", "../x"), ("transit", ""), ("transit", "a/b"), ("..", "k"), ("a//b", "k"), ("a?", "k")]
    {
        let odd = TransitSettings { mount: mount.to_owned(), key: key.to_owned(), ..settings("https://vault") };
        assert!(matches!(TransitKeyWrapper::new(odd), Err(TransitError::Name { .. })), "{mount} {key}");
    }
    let nested = TransitSettings { mount: "team/transit".to_owned(), namespace: None, ..settings("https://vault") };
    assert_eq!(TransitKeyWrapper::new(nested).unwrap().id(), "transit:team/transit/valetkey");
    assert!(!format!("{:?}", settings("https://vault")).contains("hvs"));
}
