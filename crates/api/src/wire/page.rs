//! Pages of lists.

use std::{borrow::Cow, fmt::Display, str::FromStr};

use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, ObjectBuilder, Ref, RefOr, Schema, Type, schema::SchemaType},
};

use crate::extract::{FromPairs, Pairs};

const DEFAULT_LIMIT: i64 = 50;
const LONGEST: i64 = 200;

/// One page of a list.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    /// What is on the page.
    pub(crate) items: Vec<T>,
    /// What to send as `after` for the next page; null on the last one.
    pub(crate) next: Option<String>,
}

/// By hand, because the derived one writes out the schema of the items in each page's own.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let next = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("What to send as `after` for the next page; null on the last one."));
        ObjectBuilder::new()
            .description(Some("One page of a list."))
            .property("items", items)
            .property("next", next)
            .required("items")
            .required("next")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

/// Where a page begins, and how long it is.
#[derive(Debug)]
pub(crate) struct PageParams<Id> {
    /// The last id of the page before.
    pub(crate) after: Option<Id>,
    limit: i64,
}

impl<Id: FromStr<Err: Display>> FromPairs for PageParams<Id> {
    fn from_pairs(pairs: &mut Pairs) -> Self {
        let limit = pairs.take("limit").unwrap_or(DEFAULT_LIMIT);
        if !(1..=LONGEST).contains(&limit) {
            pairs.fault("limit", format!("is a number from 1 to {LONGEST}"));
        }
        Self { after: pairs.take("after"), limit }
    }
}

impl<Id> PageParams<Id> {
    /// How many to ask for: one more than the page holds tells whether there is a next page.
    pub(crate) fn probe(&self) -> i64 {
        self.limit + 1
    }

    /// How many the page holds.
    pub(crate) fn limit(&self) -> i64 {
        self.limit
    }

    /// Makes the page of what was found with [`PageParams::probe`].
    pub(crate) fn page<T, U: From<T>>(&self, mut found: Vec<T>, id: impl Fn(&T) -> String) -> Page<U> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = if more { found.last().map(id) } else { None };
        Page { items: found.into_iter().map(U::from).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(limit: i64) -> PageParams<String> {
        PageParams { after: None, limit }
    }

    #[test]
    fn a_page_names_its_last_id_only_if_there_is_more() {
        let ask = params(2);
        assert_eq!(ask.probe(), 3);
        let page: Page<String> = ask.page(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], Clone::clone);
        assert_eq!((page.items.len(), page.next.as_deref()), (2, Some("b")));
        let page: Page<String> = ask.page(vec!["a".to_owned(), "b".to_owned()], Clone::clone);
        assert_eq!((page.items.len(), page.next), (2, None));
    }
}
