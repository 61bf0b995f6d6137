// Package wire has what the Go programs of this suite share: messages without stubs, and JSON lines.
package wire

import (
	"encoding/json"
	"fmt"
)

// Codec passes messages, which are byte slices, unchanged.
type Codec struct{}

// Marshal returns the message.
func (Codec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal copies the data into the message.
func (Codec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// Name returns the content subtype.
func (Codec) Name() string { return "raw" }

// PrintLine prints a value as one line of JSON.
func PrintLine(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
