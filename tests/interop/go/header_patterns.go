package main

import (
	"os"
	"regexp"
	"strings"
)

// headerPatterns checks that Go's regular expressions, which have the syntax of RE2, match the values of headers as the registry does.
func headerPatterns(*fixture) {
	table := string(must(os.ReadFile(os.Getenv("HEADER_PATTERNS"))))
	for _, line := range strings.Split(strings.TrimSuffix(table, "\n"), "\n") {
		columns := strings.Split(line, "\t")
		check(len(columns) == 3, "the line %q has %d columns", line, len(columns))
		expected, value, pattern := columns[0] == "match", columns[1], columns[2]
		// grpc-go compares the longest match with the value.
		longest := must(regexp.Compile(pattern))
		longest.Longest()
		at := longest.FindStringIndex(value)
		whole := at != nil && at[1]-at[0] == len(value)
		check(whole == expected, "%q matches %q: %t, not %t", pattern, value, whole, expected)
		// grpc-js anchors the pattern.
		anchored := must(regexp.Compile("^" + pattern + "$")).MatchString(value)
		check(anchored == expected, "%q between anchors matches %q: %t, not %t", pattern, value, anchored, expected)
	}
}
