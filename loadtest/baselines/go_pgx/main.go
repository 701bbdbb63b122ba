// Go's net/http with a pgx pool in front of PostgreSQL: one INSERT ... RETURNING id for each request, committed with
// synchronous_commit=on, so that a 201 means the same as ours: it is on disk.
// Settings: prepared statements, which are pgx's default; GOMAXPROCS as the runtime sets it; the Unix socket, cheaper
// than TCP where both are on one machine; the usage as text, which costs PostgreSQL less than jsonb; the pool's size
// from POOL_SIZE, see POOL_SIZE in run_go.py for how it was chosen.
// Started: DATABASE_URL="host=/path user=postgres" POOL_SIZE=32 PORT=8080 ./server; PORT=0 takes a free one.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	bodyBytesMax   = 100 * 1024
	patientIDMax   = 128
	createTable    = `CREATE TABLE IF NOT EXISTS usages (id bigserial PRIMARY KEY, usage text NOT NULL)`
	insertUsage    = `INSERT INTO usages (usage) VALUES ($1) RETURNING id`
	defaultPoolMax = "32"
)

// The fields that are checked when they are there.
type knownFields struct {
	PatientID  json.RawMessage `json:"patientId"`
	Timestamp  json.RawMessage `json:"timestamp"`
	Medication json.RawMessage `json:"medication"`
}

func isString(value json.RawMessage) bool { return value[0] == '"' }

func isNumber(value json.RawMessage) bool {
	return value[0] == '-' || (value[0] >= '0' && value[0] <= '9')
}

func isPatientID(value json.RawMessage) bool {
	if isNumber(value) {
		return !bytes.ContainsAny(value, ".eE")
	}
	var text string
	if json.Unmarshal(value, &text) != nil {
		return false
	}
	length := utf8.RuneCountInString(text)
	return length >= 1 && length <= patientIDMax
}

// check returns 0 for a usage that may be stored, else the status of the refusal.
func check(body []byte) int {
	start := bytes.TrimLeft(body, " \t\r\n")
	if len(start) == 0 || start[0] != '{' || !utf8.Valid(body) {
		return http.StatusBadRequest
	}
	var fields knownFields
	if json.Unmarshal(body, &fields) != nil {
		return http.StatusBadRequest
	}
	switch {
	case fields.PatientID != nil && !isPatientID(fields.PatientID),
		fields.Timestamp != nil && !isString(fields.Timestamp) && !isNumber(fields.Timestamp),
		fields.Medication != nil && !isString(fields.Medication):
		return http.StatusUnprocessableEntity
	}
	return 0
}

func postUsage(pool *pgxpool.Pool) http.HandlerFunc {
	return func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(writer, request.Body, bodyBytesMax))
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			refuse(writer, http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			refuse(writer, http.StatusBadRequest)
			return
		}
		if status := check(body); status != 0 {
			refuse(writer, status)
			return
		}
		var id int64
		if err := pool.QueryRow(request.Context(), insertUsage, body).Scan(&id); err != nil {
			log.Print(err)
			refuse(writer, http.StatusServiceUnavailable)
			return
		}
		answer := append(strconv.AppendInt([]byte(`{"id":`), id, 10), '}')
		writer.Header().Set("Content-Type", "application/json")
		writer.WriteHeader(http.StatusCreated)
		_, _ = writer.Write(answer)
	}
}

func refuse(writer http.ResponseWriter, status int) {
	http.Error(writer, http.StatusText(status), status)
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	background := context.Background()
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	size, err := strconv.ParseInt(setting("POOL_SIZE", defaultPoolMax), 10, 32)
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = int32(size)
	// All connections are made at once and kept, so that no request pays for one.
	config.MinConns = config.MaxConns
	pool, err := pgxpool.NewWithConfig(background, config)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pool.Exec(background, createTable); err != nil {
		log.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /api/usages", postUsage(pool))
	routes.HandleFunc("GET /readyz", func(writer http.ResponseWriter, _ *http.Request) {
		_, _ = writer.Write([]byte("{}"))
	})
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", setting("PORT", "0")))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening %d\n", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal((&http.Server{Handler: routes}).Serve(listener))
}
