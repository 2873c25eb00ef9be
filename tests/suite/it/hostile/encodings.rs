//! Encoded and doubled parameters (RFC 6749, section 3.1; RFC 9700, section 4.7): what two readers of one address could
//! understand differently is refused before anything is consumed, and the right answer still counts afterwards.

use valetkey_suite::{ConnectorSpec, Page, engine_tests};

use super::{Walk, metric, nothing_came_of_it, param, refused_for, with_param};

/// An answer with this raw text in place of its query.
async fn answered(walk: &Walk, query: &str) -> Page {
    let (address, _) = walk.callback.split_once('?').unwrap();
    walk.browser.get(&format!("{address}?{query}")).await
}

engine_tests! {
    // RFC 6749, section 3.1: `state` twice, alike, unlike, empty, under encoded names; attack 12.
    async fn a_state_that_comes_twice_is_refused_and_burns_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let state = param(&walk.callback, "state");
        let other = Walk::of(&app, &connector, "u-2").await;
        for again in [
            format!("state={state}"),
            format!("state={}", param(&other.callback, "state")),
            "state=".to_owned(),
            "state".to_owned(),
            format!("%73%74%61%74%65={state}"),
            format!("st%61te={state}"),
            format!("s%74ate=%{:02x}{}", state.as_bytes()[0], &state[1..]),
        ] {
            let doubled = format!("{}&{again}", walk.callback);
            walk.browser.get(&doubled).await.expect_failure(400, "callback-invalid");
        }
        assert_eq!(metric(&app, "callbacks_refused", "reason=\"doubled\""), 7);
        refused_for(&app, &walk.started.flow_id, "doubled").await;
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
        other.ends_well(&app, &connector, "u-2").await;
    }

    // RFC 6749, section 3.1: `code` twice, of which another reader would take the other; attack 7.
    async fn a_code_that_comes_twice_is_refused_and_burns_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let code = param(&walk.callback, "code");
        for again in [
            format!("code={code}"),
            "code=of-the-attacker".to_owned(),
            "code=".to_owned(),
            "c%6fde=of-the-attacker".to_owned(),
            "%63%6F%64%65=of-the-attacker".to_owned(),
            "error=access_denied".to_owned(),
            "err%6Fr=access_denied".to_owned(),
        ] {
            let doubled = format!("{}&{again}", walk.callback);
            walk.browser.get(&doubled).await.expect_failure(400, "callback-invalid");
        }
        refused_for(&app, &walk.started.flow_id, "doubled").await;
        refused_for(&app, &walk.started.flow_id, "malformed").await;
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // Names are compared as they are: another case, brackets, blanks or look-alikes are other parameters; attacks 7, 12.
    async fn a_name_that_only_looks_right_is_another_name(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        for (name, code) in [("state", "callback-invalid"), ("code", "callback-invalid")] {
            let value = param(&walk.callback, name);
            let bare = with_param(&walk.callback, name, None);
            for other in [
                name.to_uppercase(),
                format!("{}{}", name[..1].to_uppercase(), &name[1..]),
                format!("{name}[]"),
                format!("{name}[0]"),
                format!("{name}."),
                format!("%20{name}"),
                format!("{name}+"),
                format!("{name}%00"),
                name.replace('e', "%D0%B5"),
                format!("%25{:02x}{}", name.as_bytes()[0], &name[1..]),
            ] {
                walk.browser.get(&format!("{bare}&{other}={value}")).await.expect_failure(400, code);
                // Beside the right one it is ignored: only a later answer tells, so try it with a wrong cookie.
                let beside = format!("{}&{other}=x", walk.callback);
                app.browser("stranger").get(&beside).await.expect(403);
            }
        }
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // `+` and `%20`, padding, case and blanks around a value: the state is what was sent, bit for bit; attack 12.
    async fn a_state_that_is_not_bit_for_bit_the_same_is_unknown(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let (state, code, iss) =
            (param(&walk.callback, "state"), param(&walk.callback, "code"), param(&walk.callback, "iss"));
        for wrong in [
            format!("+{state}"),
            format!("{state}+"),
            format!("%20{state}"),
            format!("{state}%20"),
            format!("{state}%0A"),
            format!("{state}%00"),
            format!("{state}="),
            format!("{state}%3D"),
            format!("{state}%ff"),
            format!("%EF%BB%BF{state}"),
            state.to_uppercase(),
            state.to_lowercase(),
            state[1..].to_owned(),
            format!("%25{:02x}{}", state.as_bytes()[0], &state[1..]),
            format!("{state};x=y"),
        ] {
            if wrong == state {
                continue;
            }
            let page = answered(&walk, &format!("code={code}&state={wrong}&iss={iss}")).await;
            assert!([404, 429].contains(&page.status), "{wrong}: {}", page.status);
        }
        assert!(metric(&app, "callbacks_refused", "reason=\"unknown_state\"") >= 14);
        nothing_came_of_it(&app).await;
        // The same value in another encoding is the same value (RFC 3986, section 2.3).
        let encoded = state.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        let page = answered(&walk, &format!("code={code}&state={encoded}&iss={iss}")).await;
        let home = valetkey_suite::Home::of(&page);
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    // Overlong values cost us nothing and break nothing; attack 23.
    async fn overlong_values_are_refused_and_burn_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        for length in [5_000, 40_000] {
            let long = "a".repeat(length);
            let state = with_param(&walk.callback, "state", Some(&long));
            let page = walk.browser.get(&state).await;
            assert!([404, 414, 431].contains(&page.status), "{}", page.status);
            let iss = with_param(&walk.callback, "iss", Some(&long));
            let page = app.browser("stranger").get(&iss).await;
            assert!([403, 414, 431].contains(&page.status), "{}", page.status);
        }
        for length in [16 * 1024 + 1, 60_000] {
            let code = with_param(&walk.callback, "code", Some(&"a".repeat(length)));
            let page = walk.browser.get(&code).await;
            assert!([400, 414, 431].contains(&page.status), "{length}: {}", page.status);
        }
        let many = format!("{}&{}", walk.callback, "x=y&".repeat(5_000));
        let page = app.browser("stranger").get(&many).await;
        assert!([403, 414, 431].contains(&page.status), "{}", page.status);
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // Other separators and other places: a semicolon, a fragment, a query inside a value; attacks 6 and 12.
    async fn only_the_query_is_read_and_only_ampersands_part_it(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let (state, code, iss) =
            (param(&walk.callback, "state"), param(&walk.callback, "code"), param(&walk.callback, "iss"));
        for (query, status) in [
            (format!("code={code};state={state};iss={iss}"), 400),
            (format!("code={code}#state={state}&iss={iss}"), 400),
            (format!("x=code={code}%26state={state}"), 400),
            (format!("?code={code}&state%3D{state}"), 400),
            (format!("%26state={state}&code={code}"), 400),
            (String::new(), 400),
            ("&&&=&=x&".to_owned(), 400),
        ] {
            let page = answered(&walk, &query).await;
            assert_eq!(page.status, status, "{query}");
        }
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
    }
}
