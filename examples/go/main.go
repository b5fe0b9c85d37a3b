// A complete client in Go: it finds the leaders, writes typed records, and reads them back.
//
// It uses nothing but the stubs generated from proto/ (see ./generate). Brokers take typed records as well as record
// batches, so no batch codec is needed.
//
//	go run . 127.0.0.1:7070 flights
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "logcluster.example/client/logclusterv1"
)

const recordCount = 10

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: client HOST:PORT TOPIC")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatalf("failed: %v", err)
	}
}

func run(ctx context.Context, bootstrap, topic string) error {
	first, err := connect(bootstrap)
	if err != nil {
		return err
	}
	defer first.Close()
	if err := createTopic(ctx, first, topic); err != nil {
		return err
	}
	leader, err := connectLeader(ctx, first, topic, 0)
	if err != nil {
		return err
	}
	defer leader.Close()
	data := pb.NewDataServiceClient(leader)
	base, err := produce(ctx, data, topic)
	if err != nil {
		return err
	}
	return readBack(ctx, data, topic, base)
}

func connect(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func createTopic(ctx context.Context, connection *grpc.ClientConn, topic string) error {
	response, err := pb.NewAdminServiceClient(connection).CreateTopics(ctx, &pb.CreateTopicsRequest{
		Topics: []*pb.NewTopic{{Name: topic, Partitions: 1}},
	})
	if err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	const topicAlreadyExists = 36
	if problem := response.Topics[0].Error; problem != nil && problem.Code != topicAlreadyExists {
		return fmt.Errorf("create topic: %s: %s", problem.Name, problem.Message)
	}
	return nil
}

// connectLeader asks for the partition's leader until there is one.
func connectLeader(ctx context.Context, connection *grpc.ClientConn, topic string, partition int32) (*grpc.ClientConn, error) {
	client := pb.NewMetadataServiceClient(connection)
	for {
		metadata, err := client.GetMetadata(ctx, &pb.GetMetadataRequest{Topics: []string{topic}})
		if err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
		if address, ok := leaderAddress(metadata, partition); ok {
			return connect(address)
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("no leader in time")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func leaderAddress(metadata *pb.GetMetadataResponse, partition int32) (string, bool) {
	for _, topic := range metadata.Topics {
		for _, candidate := range topic.Partitions {
			if candidate.Partition != partition || candidate.LeaderId == nil {
				continue
			}
			for _, broker := range metadata.Brokers {
				if broker.BrokerId == *candidate.LeaderId {
					return fmt.Sprintf("%s:%d", broker.Host, broker.GrpcPort), true
				}
			}
		}
	}
	return "", false
}

func produce(ctx context.Context, data pb.DataServiceClient, topic string) (int64, error) {
	records := make([]*pb.Record, recordCount)
	for number := range records {
		records[number] = &pb.Record{
			Key:     fmt.Appendf(nil, "key-%d", number),
			Value:   fmt.Appendf(nil, `{"from": "go", "number": %d}`, number),
			Headers: []*pb.Header{{Key: "language", Value: []byte("go")}},
		}
	}
	response, err := data.Produce(ctx, &pb.ProduceRequest{
		Acks: pb.Acks_ACKS_ALL,
		Partitions: []*pb.PartitionProduce{{
			Topic:   topic,
			Payload: &pb.PartitionProduce_Records{Records: &pb.RecordList{Records: records}},
		}},
	})
	if err != nil {
		return 0, fmt.Errorf("produce: %w", err)
	}
	ack := response.Partitions[0]
	if ack.Error != nil {
		return 0, fmt.Errorf("produce: %s: %s", ack.Error.Name, ack.Error.Message)
	}
	fmt.Printf("wrote %d records from offset %d on\n", len(records), ack.BaseOffset)
	return ack.BaseOffset, nil
}

func readBack(ctx context.Context, data pb.DataServiceClient, topic string, offset int64) error {
	for read := 0; read < recordCount; {
		response, err := data.Fetch(ctx, &pb.FetchRequest{
			MaxWaitMs:  500,
			MinBytes:   1,
			Format:     pb.FetchFormat_FETCH_FORMAT_RECORDS,
			Partitions: []*pb.FetchPartition{{Topic: topic, FetchOffset: offset}},
		})
		if err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		for _, partition := range response.Partitions {
			if partition.Error != nil {
				return fmt.Errorf("fetch: %s: %s", partition.Error.Name, partition.Error.Message)
			}
			for _, record := range partition.Records {
				fmt.Printf("%d %s %s\n", record.Offset, record.Key, record.Value)
				if want := fmt.Sprintf("key-%d", read); string(record.Key) != want {
					return fmt.Errorf("offset %d has key %s, not %s", record.Offset, record.Key, want)
				}
				offset = record.Offset + 1
				read++
			}
		}
	}
	fmt.Printf("read %d records\n", recordCount)
	return nil
}
