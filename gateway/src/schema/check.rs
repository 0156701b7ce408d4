//! A value against its schema, in the order of the API server: nulls and
//! unknown fields first, then defaults, then everything else.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Schema, Type, words};
use crate::manifest::{Path, Problem, Step};

impl Schema {
    /// Fills in defaults and says everything that is wrong.
    pub(crate) fn admit(&self, value: &mut Value, path: &Path) -> Vec<Problem> {
        let mut walk = Walk { path: path.clone(), problems: Vec::new() };
        walk.value(self, value);
        walk.problems
    }
}

struct Walk {
    path: Path,
    problems: Vec<Problem>,
}

impl Walk {
    fn problem(&mut self, reason: impl Into<String>) {
        self.problems.push(Problem::new(self.path.clone(), reason));
    }

    fn at(&mut self, step: Step, visit: impl FnOnce(&mut Self)) {
        self.path.push(step);
        visit(self);
        self.path.pop();
    }

    fn value(&mut self, schema: &Schema, value: &mut Value) {
        match (schema.kind, value) {
            (Some(Type::Object), Value::Object(map)) => self.object(schema, map),
            (Some(Type::Array), Value::Array(items)) => self.array(schema, items),
            (Some(Type::String), Value::String(text)) => self.text(schema, text),
            (Some(Type::Integer), Value::Number(number)) => self.integer(schema, number),
            (Some(Type::Boolean), Value::Bool(_)) => {}
            (Some(wanted), found) => {
                let reason = mismatch(wanted, found);
                self.problem(reason);
            }
            (None, _) => {}
        }
    }

    fn object(&mut self, schema: &Schema, map: &mut Map<String, Value>) {
        if let Some(inner) = &schema.additional_properties {
            if let Some(most) = schema.max_properties.filter(|&most| map.len() > most) {
                self.problem(format!("has {} entries: at most {most} are allowed", map.len()));
            }
            for (key, value) in map.iter_mut() {
                self.at(Step::Key(key.clone()), |walk| walk.value(inner, value));
            }
            return;
        }
        // The API server drops a null that the schema has no use for, so
        // that `listeners:` with nothing behind it is like no `listeners`.
        map.retain(|key, value| !(value.is_null() && schema.properties.contains_key(key)));
        for key in map.keys() {
            if !schema.properties.contains_key(key) {
                let known: Vec<_> = schema.properties.keys().map(String::as_str).collect();
                let reason = format!("is no known field: there are {}", known.join(", "));
                self.at(Step::Key(key.clone()), |walk| walk.problem(reason));
            }
        }
        for (key, property) in &schema.properties {
            if let (None, Some(default)) = (map.get(key), &property.default) {
                map.insert(key.clone(), default.clone());
            }
            match map.get_mut(key) {
                Some(value) => self.at(Step::Key(key.clone()), |walk| walk.value(property, value)),
                None if schema.required.contains(key) => {
                    self.at(Step::Key(key.clone()), |walk| walk.problem("is missing"));
                }
                None => {}
            }
        }
    }

    fn array(&mut self, schema: &Schema, items: &mut [Value]) {
        match (schema.min_items, schema.max_items) {
            (Some(least), _) if items.len() < least => {
                self.problem(format!("has {} items: at least {least} needed", items.len()));
            }
            (_, Some(most)) if items.len() > most => {
                self.problem(format!("has {} items: at most {most} are allowed", items.len()));
            }
            _ => {}
        }
        if let Some(inner) = &schema.items {
            for (index, item) in items.iter_mut().enumerate() {
                self.at(Step::Index(index), |walk| walk.value(inner, item));
            }
        }
        if !schema.list_map_keys.is_empty() {
            self.unique(&schema.list_map_keys, items);
        }
        if schema.list_type.as_deref() == Some("set") {
            self.different(items);
        }
    }

    /// `x-kubernetes-list-type: set`
    fn different(&mut self, items: &[Value]) {
        for (index, item) in items.iter().enumerate() {
            let mut earlier = items.iter().take(index);
            if let Some(first) = earlier.position(|other| other == item) {
                let reason = format!("is the same as item {first}: give each once");
                self.at(Step::Index(index), |walk| walk.problem(reason));
            }
        }
    }

    /// `x-kubernetes-list-type: map`: the keys identify the item.
    fn unique(&mut self, keys: &[String], items: &[Value]) {
        let mut seen = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let values: Vec<_> =
                keys.iter().filter_map(|key| item.get(key)).map(Value::to_string).collect();
            if values.len() != keys.len() {
                continue;
            }
            let text = values.join(", ");
            if let Some(first) = seen.insert(values, index) {
                let reason = format!(
                    "has the same {} ({text}) as item {first}: it must be unique",
                    keys.join(" and ")
                );
                self.at(Step::Index(index), |walk| walk.problem(reason));
            }
        }
    }

    fn text(&mut self, schema: &Schema, text: &str) {
        // As in JSON Schema, characters are counted, not bytes.
        let length = text.chars().count();
        if schema.min_length.is_some_and(|least| length < least) {
            return self.problem("is empty");
        }
        if let Some(most) = schema.max_length.filter(|&most| length > most) {
            return self.problem(format!("has {length} characters: at most {most} are allowed"));
        }
        if !schema.choices.is_empty() && !schema.choices.iter().any(|choice| choice == text) {
            return self.problem(format!("is {text:?}: use {}", choices(schema)));
        }
        if let Some(pattern) = &schema.pattern
            && !pattern.regex.is_match(text)
        {
            let words = words::of(&pattern.text).unwrap_or(&pattern.text);
            self.problem(format!("is {text:?}: it must be {words}"));
        }
    }

    fn integer(&mut self, schema: &Schema, number: &serde_json::Number) {
        // A number that is no i64 is beyond every range here.
        let least = schema.minimum.unwrap_or(i32::MIN.into());
        let most = schema.maximum.unwrap_or(i32::MAX.into());
        if number.is_f64() && number.as_f64().is_some_and(|number| number.abs() < 1e15) {
            return self.problem(format!("is {number}: use a whole number"));
        }
        if !number.as_i64().is_some_and(|number| (least..=most).contains(&number)) {
            return self.problem(format!("is {number}: use {least} to {most}"));
        }
        let is_chosen = |choice: &Value| choice.as_i64() == number.as_i64();
        if !schema.choices.is_empty() && !schema.choices.iter().any(is_chosen) {
            self.problem(format!("is {number}: use {}", choices(schema)));
        }
    }
}

fn choices(schema: &Schema) -> String {
    let text = |choice: &Value| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned);
    let texts: Vec<_> = schema.choices.iter().map(text).collect();
    texts.join(" or ")
}

fn mismatch(wanted: Type, found: &Value) -> String {
    let found_words = match found {
        Value::Null => "empty".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    };
    let advice = match (wanted, found) {
        (Type::String, Value::Bool(_) | Value::Number(_)) => "put it in quotes",
        (Type::String, _) => "write a text",
        (Type::Integer, Value::String(_)) => "write a whole number, without quotes",
        (Type::Integer, _) => "write a whole number",
        (Type::Boolean, _) => "write true or false",
        (Type::Array, _) => "write a list, each item after \"- \"",
        (Type::Object, _) => "write a map of fields",
    };
    format!("is {found_words}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(json: Value) -> Schema {
        serde_json::from_value(json).unwrap()
    }

    fn problems(schema: &Schema, mut value: Value) -> Vec<String> {
        schema.admit(&mut value, &Path::of("x")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn types_are_checked_and_explained() {
        let text = schema(json!({"type": "string"}));
        assert_eq!(problems(&text, json!(80)), ["x is the number 80: put it in quotes"]);
        assert_eq!(problems(&text, json!(["a"])), ["x is a list: write a text"]);
        let number = schema(json!({"type": "integer"}));
        assert_eq!(
            problems(&number, json!("80")),
            ["x is the text \"80\": write a whole number, without quotes"]
        );
        assert_eq!(problems(&number, json!(1.5)), ["x is 1.5: use a whole number"]);
        assert_eq!(problems(&number, json!(80.0)), ["x is 80.0: use a whole number"]);
        let list = schema(json!({"type": "array", "items": {"type": "string"}}));
        assert_eq!(
            problems(&list, json!({})),
            ["x is a map: write a list, each item after \"- \""]
        );
        assert_eq!(problems(&list, json!([null])), ["x[0] is empty: write a text"]);
        let map = schema(json!({"type": "object"}));
        assert_eq!(
            problems(&map, json!(true)),
            ["x is the truth value true: write a map of fields"]
        );
    }

    #[test]
    fn ranges_have_both_ends() {
        let port = schema(json!({"type": "integer", "minimum": 1, "maximum": 65535}));
        for good in [json!(1), json!(65535)] {
            assert!(problems(&port, good).is_empty());
        }
        for bad in [json!(0), json!(-1), json!(65536), json!(u64::MAX), json!(1e30)] {
            assert_eq!(problems(&port, bad.clone()), [format!("x is {bad}: use 1 to 65535")]);
        }
    }

    #[test]
    fn lengths_count_characters() {
        let text = schema(json!({"type": "string", "minLength": 1, "maxLength": 3}));
        assert!(problems(&text, json!("äöü")).is_empty());
        assert_eq!(problems(&text, json!("")), ["x is empty"]);
        assert_eq!(problems(&text, json!("abcd")), ["x has 4 characters: at most 3 are allowed"]);
        let list = schema(json!({"type": "array", "minItems": 1, "maxItems": 2}));
        assert_eq!(problems(&list, json!([])), ["x has 0 items: at least 1 needed"]);
        assert_eq!(problems(&list, json!([1, 2, 3])), ["x has 3 items: at most 2 are allowed"]);
        let map = schema(json!({
            "type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}
        }));
        assert_eq!(
            problems(&map, json!({"a": "b", "c": 1})),
            ["x has 2 entries: at most 1 are allowed", "x.c is the number 1: put it in quotes"]
        );
    }

    #[test]
    fn choices_and_patterns_are_told() {
        let choice = schema(json!({"type": "string", "enum": ["All", "Same"]}));
        assert_eq!(problems(&choice, json!("None")), ["x is \"None\": use All or Same"]);
        let kind =
            schema(json!({"type": "string", "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}));
        assert_eq!(
            problems(&kind, json!("a/b")),
            ["x is \"a/b\": it must be a kind such as Service"]
        );
        assert_eq!(problems(&kind, json!("a\n")).len(), 1);
        let odd = schema(json!({"type": "string", "pattern": "^odd$"}));
        assert_eq!(problems(&odd, json!("even")), ["x is \"even\": it must be ^odd$"]);
    }

    #[test]
    fn fields_are_known_required_and_defaulted() {
        let object = schema(json!({
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string"},
                "routes": {
                    "type": "object",
                    "default": {},
                    "properties": {"from": {"type": "string", "default": "Same"}}
                }
            }
        }));
        assert_eq!(
            problems(&object, json!({"nmae": "a", "name": null})),
            ["x.nmae is no known field: there are name, routes", "x.name is missing"]
        );
        let mut value = json!({"name": "a"});
        assert!(object.admit(&mut value, &Path::root()).is_empty());
        assert_eq!(value, json!({"name": "a", "routes": {"from": "Same"}}));
        let mut value = json!({"name": "a", "routes": null});
        assert!(object.admit(&mut value, &Path::root()).is_empty());
        assert_eq!(value, json!({"name": "a", "routes": {"from": "Same"}}));
    }

    #[test]
    fn keys_of_a_list_map_are_unique() {
        let list = schema(json!({
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"type": "string"}}},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"]
        }));
        assert_eq!(
            problems(&list, json!([{"name": "a"}, {"name": "b"}, {"name": "a"}])),
            ["x[2] has the same name (\"a\") as item 0: it must be unique"]
        );
    }
}
