//! The query of a callback, parsed here and not by a framework, because a parameter that comes twice must be noticed.

use std::collections::BTreeMap;

use valetkey_broker::CallbackQuery;
use valetkey_core::Secret;

/// Reads the provider's answer (RFC 6749, section 4.1.2; RFC 9207). Unknown parameters are kept aside, for what a profile
/// wants; of those, one that comes twice is dropped.
pub(crate) fn callback_query(raw: &str) -> CallbackQuery {
    let mut query = CallbackQuery::default();
    let mut seen_twice = Vec::new();
    for (name, value) in url::form_urlencoded::parse(raw.as_bytes()) {
        let doubled = match name.as_ref() {
            "code" => query.code.replace(Secret::from(value.into_owned())).is_some(),
            "state" => query.state.replace(Secret::from(value.into_owned())).is_some(),
            "iss" => query.iss.replace(value.into_owned()).is_some(),
            "error" => query.error.replace(value.into_owned()).is_some(),
            _ => {
                let name = name.into_owned();
                if query.others.insert(name.clone(), value.into_owned()).is_some() {
                    seen_twice.push(name);
                }
                false
            }
        };
        query.doubled |= doubled;
    }
    for name in seen_twice {
        query.others.remove(&name);
    }
    query
}

/// The fields of a form, if each comes once.
pub(super) fn form_fields(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        if fields.insert(name.into_owned(), value.into_owned()).is_some() {
            return None;
        }
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(query: &CallbackQuery) -> Option<&str> {
        query.code.as_ref().map(Secret::expose)
    }

    #[test]
    fn an_answer_is_read_with_its_encodings() {
        let query = callback_query("code=4%2F0AX%3D%3D&state=s-1_&iss=https%3A%2F%2Fidp.example&session_state=x+y");
        assert_eq!(code(&query), Some("4/0AX=="));
        assert_eq!(query.state.as_ref().map(Secret::expose), Some("s-1_"));
        assert_eq!(query.iss.as_deref(), Some("https://idp.example"));
        assert_eq!(query.others["session_state"], "x y");
        assert!(!query.doubled && query.error.is_none());
    }

    #[test]
    fn a_parameter_that_matters_may_not_come_twice() {
        for raw in [
            "code=a&code=b&state=s",
            "code=a&state=s&state=s",
            "code=a&state=s&iss=i&iss=i",
            "error=a&error=b&state=s",
            "code=a&c%6fde=b&state=s",
            "code=a&state=s&code",
        ] {
            assert!(callback_query(raw).doubled, "{raw}");
        }
    }

    #[test]
    fn a_name_is_compared_as_it_is_written() {
        let query = callback_query("Code=a&code =b&code[]=c&state=s");
        assert!(!query.doubled);
        assert_eq!(code(&query), None);
    }

    #[test]
    fn unknown_parameters_are_ignored_and_doubled_ones_dropped() {
        let query = callback_query("code=a&state=s&realm=1&realm=2&scope=x&utm");
        assert!(!query.doubled);
        assert_eq!(query.others.len(), 2, "{:?}", query.others.keys());
        assert!(!query.others.contains_key("realm"));
    }

    #[test]
    fn an_empty_query_has_nothing() {
        let query = callback_query("");
        assert!(query.code.is_none() && query.state.is_none() && !query.doubled && query.others.is_empty());
    }

    #[test]
    fn a_form_field_may_not_come_twice() {
        assert_eq!(form_fields(b"token=a%20b&decision=connect").expect("fields")["token"], "a b");
        assert!(form_fields(b"token=a&token=a").is_none());
    }
}
